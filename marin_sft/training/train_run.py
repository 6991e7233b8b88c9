"""What every kind of training does, with JAX: load a model, loop over an objective's batches, write the model."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from levanter.models.lm_model import LmHeadModel
from levanter.trainer import Trainer, TrainerConfig

from marin_sft import disk
from marin_sft.data.batches.prefetch import Prefetched
from marin_sft.errors import TrainingError
from marin_sft.parts import declare_whole
from marin_sft.training import checkpoints, device_memory, exports, levanter_trainer, mesh, processes
from marin_sft.training.attention import choice
from marin_sft.training.export_names import part_of
from marin_sft.training.length import end_of, epochs_of, length_text, num_steps_of
from marin_sft.training.loop import Loop, StepInput
from marin_sft.training.metrics.throughput import Throughput, multiplied_weights, throughput, weights_of, windows
from marin_sft.training.models import levanter_model, lora, peft_directory, recomputation
from marin_sft.training.models.families import check_family
from marin_sft.training.models.model_check import check_new_tokens, check_tokenizers
from marin_sft.training.models.model_config import Fields, with_dtype
from marin_sft.training.models.model_directory import ModelDirectory, write_json, write_tensors, writing
from marin_sft.training.models.peft_directory import Adapter
from marin_sft.training.models.reinit import token_ids
from marin_sft.training.models.tensor_names import require_match
from marin_sft.training.models.trained_tokens import trained_ids
from marin_sft.training.objective import Evaluate, Layout, Objective
from marin_sft.training.optimization import optimizers
from marin_sft.training.optimization.freezing import Freezing, freezing
from marin_sft.training.optimization.schedules import schedule
from marin_sft.training.train_config import TrainConfig
from marin_sft.training.train_step import recording, step_function
from marin_sft.training.trained_weights import used_by_first

if TYPE_CHECKING:
    from jaxtyping import PyTree

TRAIN_SLICE = 8  # batches to evaluate on if nothing is held out


@device_memory.explained()
def train(config: TrainConfig, build: Callable[[Layout], Objective]) -> None:
    """Train the base model on the objective from `build`, and write the model."""
    if config.lora is not None:
        config = dataclasses.replace(config, lora=peft_directory.resolved(config.lora))
    settings = levanter_trainer.trainer_config(precision=config.precision, seed=config.seed, mesh=config.mesh)
    base = config.base()
    check_family(base.config)
    mesh.check_model(base.whole_config, settings.device_mesh.shape)
    check_tokenizers(config.tokenized, base)
    if config.lora is not None:
        check_new_tokens(config.tokenized, base, trained_ids(config.lora, base, token_ids(base, config.reinit_tokens)))
    if config.hf_exports is not None:
        config.hf_exports.check(base)
    layout = levanter_trainer.layout(
        settings, config.train_batch_size, config.per_device_parallelism, config.gradient_accumulation_steps
    )
    objective = build(layout)
    epochs = epochs_of(config, objective.examples_per_epoch)
    num_steps = num_steps_of(config, objective.examples_per_epoch)
    end = end_of(config.stop_after, num_steps)
    if processes.is_first():
        print(length_text(epochs, num_steps, objective.example_name or "rows"), flush=True)
        if end < num_steps:
            print(f"stop_after: it ends after {end:,} of these steps, and keeps its state", flush=True)
    trainer, frozen = trainer_for(config, settings, num_steps)
    steps_per_eval = config.eval_cadence(num_steps)
    evaluate = _evaluation(config, objective, trainer) if steps_per_eval else None
    with trainer:
        recomputed = _recomputed(config, base.whole_config, objective, layout, settings)
        model = levanter_model.load_model(
            base,
            axis_mapping=trainer.parameter_axis_mapping,
            gradient_checkpointing=recomputed,
            attention_backend=config.attention_backend,
            reinit_tokens=config.reinit_tokens,
            expected=config.expected_model,
            dtype=settings.mp.param_dtype if config.lora is None else settings.mp.compute_dtype,
            lora=config.lora,
            seed=config.seed,
        )
        _tell(config, trainer, model, recomputed)
        trainable = trainable_of(config, model, frozen)
        if config.weight_distribution_log_steps is not None:
            tensors = {name: (name,) for name in levanter_model.state_shapes(model)}
            require_match(tensors, config.weight_distribution_pattern, "weight_distribution_pattern")
        loop = Loop(
            settings=config,
            num_steps=num_steps,
            end=end,
            epochs=epochs,
            output_path=config.output_path,
            earlier_attempts=tuple(config.earlier_attempts),
            about=_plain(config),
            identity=_identity(config, num_steps),
            data_digest=objective.digest,
            example_name=objective.example_name,
            check=objective.check,
            of_loss=objective.figures_of_loss,
            steps_per_export=config.hf_exports.steps if config.hf_exports else None,
            export=functools.partial(_export, config, base),
            steps_per_eval=steps_per_eval,
            evaluate=evaluate,
            throughput=_throughput(base.whole_config, model, frozen),
        )
        layers = tuple(windows(base.whole_config).items())
        part, parts = levanter_trainer.process_rows(trainer, layout.devices)

        def host_arrays(step: int) -> dict[str, np.ndarray]:
            return objective.arrays(step, part, parts)

        def step_input(step: int) -> StepInput:
            batch = levanter_trainer.to_devices(trainer, next_arrays(step), part, parts)
            segments = batch["segment_ids"].array
            computed, attended = _counts(segments, batch["position_ids"].array, layers)
            trained = objective.trained_tokens(step)
            return StepInput(batch, objective.tokens(step), trained, computed, attended, segments.shape[-1])

        with Prefetched(host_arrays, end) as next_arrays:
            reference = objective.reference(trainer)
            state = levanter_trainer.initial_state(trainer, model, config.seed, reference, trainable)
            state = loop.run(trainer, state, step_function(trainer, objective.loss), step_input)
        _write_model(config, base, state.model, keeps_state=end < num_steps)


def trainer_for(config: TrainConfig, settings: TrainerConfig, num_steps: int) -> tuple[Trainer, Freezing | None]:
    """The trainer with the config's optimizer, and what is frozen. Of the base model, it reads config.json alone."""
    optimizer = optax.chain(recording(schedule(config, num_steps)), optimizers.optimizer(config, num_steps))
    frozen = freezing(config, num_steps)
    if frozen is not None:
        optimizer = frozen.applied_to(optimizer)
    return levanter_trainer.build_trainer(settings, optimizer), frozen


def trainable_of(config: TrainConfig, model: LmHeadModel, frozen: Freezing | None) -> PyTree:
    """`trainable` of `levanter_trainer.initial_state`, for a model or its eval_shape."""
    if frozen is not None:
        return frozen.trainable(model)
    return True if config.lora is None else lora.trainable(model)


def _tell(config: TrainConfig, trainer: Trainer, model: LmHeadModel, recomputed: bool | str) -> None:
    with hax.axis_mapping(trainer.compute_axis_mapping):
        attention = choice.told(trainer.mp.cast_to_compute(model), config.attention_backend)
    if processes.is_first():
        why = "by memory" if config.gradient_checkpointing is None else "asked for"
        print(f"attention: {attention}\ngradient_checkpointing: {recomputed}; {why}", flush=True)


def _recomputed(
    config: TrainConfig, shape: Fields, objective: Objective, layout: Layout, settings: TrainerConfig
) -> bool | str:
    """The config's `gradient_checkpointing`, or what memory allows. `shape`: see `ModelDirectory.whole_config`."""
    if config.gradient_checkpointing is not None:
        return config.gradient_checkpointing
    _, rows, length = objective.arrays(0, 0, layout.devices)["tokens"].shape
    return recomputed_by_memory(config, shape, settings, rows * length, objective.example_name is not None)


def recomputed_by_memory(
    config: TrainConfig, shape: Fields, settings: TrainerConfig, tokens: int, pairs: bool
) -> bool | str:
    """`gradient_checkpointing` where the config leaves it open. `tokens`: of the rows that a device takes at once."""
    sizes, number_types = settings.device_mesh.shape, settings.mp
    values = weights_of(shape) / (sizes["data"] * sizes["model"])
    computed = jnp.dtype(number_types.compute_dtype).itemsize
    state = values * computed if config.lora else values * (computed + 4 * jnp.dtype(number_types.param_dtype).itemsize)
    if pairs:  # with a reference
        state += values * computed
    capacity = device_memory.capacity()
    return recomputation.chosen(shape, tokens // sizes["context"], computed, state, capacity)


def _throughput(shape: Fields, model: LmHeadModel, frozen: Freezing | None) -> Throughput:
    """`shape`: see `ModelDirectory.whole_config`."""
    shapes = levanter_model.state_shapes(model)
    adapter = {
        name: shapes[name]
        for name in shapes
        if name.endswith((peft_directory.A, peft_directory.B, peft_directory.ROWS))
    }
    untrained = shapes.keys() - adapter.keys() if adapter else frozen.frozen() if frozen else ()
    head = "lm_head.weight" if "lm_head.weight" in shapes else "model.embed_tokens.weight"
    return throughput(
        shape,
        jax.devices()[0].device_kind,
        jax.device_count(),
        frozen=multiplied_weights({name: shapes[name] for name in untrained}, shape),
        added=multiplied_weights(adapter, shape),
        head_frozen=head in untrained,
    )


def train_slice(config: TrainConfig, examples_per_epoch: int) -> range:
    """The steps whose batches `do_eval` measures if nothing is held out, with a warning."""
    steps = min(config.max_evaluation_steps or TRAIN_SLICE, num_steps_of(config, examples_per_epoch))
    if processes.is_first():
        print(
            f"warning: do_eval = True, but the mixture holds nothing out: train/loss is the loss on the first {steps} "
            "training batches, which says nothing about other data; "
            "lm_mixture_data_config(..., validation_fraction=0.01) holds rows out",
            file=sys.stderr,
        )
    return range(steps)


def _evaluation(config: TrainConfig, objective: Objective, trainer: Trainer) -> Evaluate | None:
    """Raises TrainingError if the config asks for an evaluation but nothing is held out."""
    evaluate = objective.evaluation(trainer)
    if evaluate is None and (config.do_eval or config.early_stopping):
        asked = "do_eval = True" if config.do_eval else "early_stopping"
        raise TrainingError(
            f"{asked}: the mixture holds nothing out to evaluate on; give lm_mixture_data_config(..., "
            "validation_fraction=0.01), or validation data when tokenizing"
        )
    return evaluate


def _plain(config: TrainConfig) -> dict[str, object]:
    """The plain fields, for trackers."""
    fields = ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))
    return {name: value for name, value in fields if isinstance(value, str | int | float | bool | None)}


@functools.partial(jax.jit, static_argnums=2)
def _counts(
    segment_ids: jax.Array, position_ids: jax.Array, layers: tuple[tuple[int | None, int], ...]
) -> tuple[jax.Array, jax.Array]:
    """`Amount.computed` and `Amount.attended`. `layers`: items of `windows`."""
    seen = jnp.where(segment_ids >= 0, position_ids + 1, 0)
    sums = [count * jnp.minimum(seen, seen if size is None else size).sum(dtype=jnp.float32) for size, count in layers]
    return jnp.sum(segment_ids >= 0), sum(sums, jnp.float32(0))


def _identity(config: TrainConfig, num_steps: int) -> Fields:
    """What the weights depend on, except data and models, whose paths may differ between attempts."""
    data_and_models = ("mixture", "tokenized", "base_model", "reference_logprobs", "reference_model")
    places = (*data_and_models, "output_path", "earlier_attempts")
    counted = [field.name for field in dataclasses.fields(config) if not field.metadata.get("execution_only")]
    values = {name: getattr(config, name) for name in counted if name not in places}
    kinds = str | int | float | list | tuple | dict | None
    plain = {name: value for name, value in values.items() if isinstance(value, kinds)}
    if config.early_stopping is not None:
        plain["early_stopping"] = dataclasses.asdict(config.early_stopping)
    adapter = None if config.lora is None else dataclasses.asdict(dataclasses.replace(config.lora, adapter_path=None))
    return json.loads(json.dumps({**plain, "lora": adapter, "num_steps": num_steps}))


def _export(
    config: TrainConfig, base: ModelDirectory, step: int, model: LmHeadModel, metrics: Mapping[str, float]
) -> None:
    exporter, path = config.hf_exports, exports.export_path(config.output_path, step)
    if exporter is not None:

        def write(weights: Mapping[str, np.ndarray], _: Adapter | None) -> None:
            files = exporter.write(path, weights, base, metrics)
            declare_whole(config.output_path, part_of(step), files)

        used_by_first(config, base, model, write)


def _write_model(config: TrainConfig, base: ModelDirectory, model: LmHeadModel, keeps_state: bool) -> None:
    """Write the weights to `model` and, if one was trained, the adapter to `adapter`. Then remove the checkpoints, or
    all but the last."""

    def write(weights: Mapping[str, np.ndarray], adapter: Adapter | None) -> None:
        with writing(f"{config.output_path}/model") as local:
            write_json(local, "config.json", with_dtype(base.config, "float32"))
            write_tensors(local, weights)
        if adapter is not None:
            with writing(f"{config.output_path}/adapter") as local:
                peft_directory.write_adapter(local, adapter, base)
        disk.sync(config.output_path)  # so that a power cut cannot take both the model and the checkpoints
        checkpoints.remove(config.output_path, keep=1 if keeps_state else 0)

    used_by_first(config, base, model, write)
