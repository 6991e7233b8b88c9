"""How much memory a training step will take on each device: it is compiled for shapes, without weights or data."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import jmp
import numpy as np
from levanter.trainer import Trainer
from levanter.trainer_state import TrainerState, trainables_only

from marin_sft.data.batches.packed_batches import assemble
from marin_sft.data.batches.pair_batches import PairBatch
from marin_sft.training import device_compilers, levanter_trainer, mesh
from marin_sft.training.activations import shares_prefix
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.loss import loss_arrays
from marin_sft.training.models import lora
from marin_sft.training.models.families import check_family
from marin_sft.training.models.levanter_model import abstract_model
from marin_sft.training.models.model_check import limits_of
from marin_sft.training.models.model_config import Fields
from marin_sft.training.models.model_directory import write_json
from marin_sft.training.models.peft_directory import resolved
from marin_sft.training.objective import Layout
from marin_sft.training.pair_loss import PairLoss, pair_arrays
from marin_sft.training.predicting import Need
from marin_sft.training.sft import loss_of
from marin_sft.training.sft_config import SFTConfig
from marin_sft.training.synced_reference import SyncedReference
from marin_sft.training.target import Target, compiling_for, has_stand_ins
from marin_sft.training.train_run import recomputed_by_memory, trainable_of, trainer_for
from marin_sft.training.train_step import Batch, Loss, Program, program

if TYPE_CHECKING:
    from jaxtyping import PyTree

_STEPS = 10**7  # more than any training has: memory does not depend on the number


@dataclass(frozen=True)
class Training:
    """What is compiled. config: with `base_model` and data unused. shape, reference: the fields of the config.json of
    the base model and of the reference model in memory. length: tokens of a row."""

    config: SFTConfig | DPOConfig
    shape: Fields
    length: int
    reference: Fields | None = None


def predict(training: Training, target: Target, most: int | None = None) -> Need:
    """most: bytes of a device. If the state and the gradients are more, nothing is compiled.

    Raises:
        TrainingError: training would refuse these settings on these devices.
    """
    with compiling_for(target), prepared(training) as step:
        weights, optimizer = _bytes((step.state.model, step.state.model_averaging)), _bytes(step.state.opt_state)
        trained = trainables_only(step.state.model, step.state.is_trainable)
        need = Need(weights, optimizer, _bytes(trained), None)
        if most is not None and need.least > most:
            return need
        return replace(need, peak=peak_of(compiled(step, target)))


def compiled(step: Step, target: Target) -> jax.stages.Compiled:
    """Call it within the contexts of `prepared` and of `compiling_for` this target."""

    def make() -> Program:
        return program(step.trainer, step.loss, step.state, step.batch)

    return make().compiled() if target.device is None else device_compilers.compiled(make, target.device)


def peak_of(program: jax.stages.Compiled) -> int:
    """Bytes on each device while it runs."""
    found = program.memory_analysis()
    sizes = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return int(sizes - found.alias_size_in_bytes)


@dataclass(frozen=True)
class Step:
    """A training step with the eval_shapes of its state and of its largest batch."""

    trainer: Trainer
    loss: Loss
    state: TrainerState
    batch: Batch


@contextmanager
def prepared(training: Training) -> Iterator[Step]:
    """The step, in the context that it is compiled in."""
    with tempfile.TemporaryDirectory() as folder:
        config = replace(training.config, base_model=_written(folder, "base", training.shape))
        if isinstance(config, DPOConfig) and training.reference is not None:
            config = replace(config, reference_model=_written(folder, "reference", training.reference))
        base = config.base()
        check_family(base.config)
        shape = base.whole_config
        settings = levanter_trainer.trainer_config(precision=config.precision, seed=config.seed, mesh=config.mesh)
        settings = replace(settings, mp=_same_sizes(settings.mp))
        mesh.check_model(shape, settings.device_mesh.shape)
        layout = levanter_trainer.layout(
            settings, config.train_batch_size, config.per_device_parallelism, config.gradient_accumulation_steps
        )
        trainer, frozen = trainer_for(config, settings, _STEPS)
        with trainer:
            loss, arrays, reference = _objective(config, training, layout)
            checkpointing = config.gradient_checkpointing
            if checkpointing is None:
                tokens, pairs = arrays["tokens"][0].size // layout.devices, isinstance(config, DPOConfig)
                checkpointing = recomputed_by_memory(config, shape, settings, tokens, pairs)
            model = abstract_model(base.config, checkpointing, config.attention_backend)
            if config.lora is not None:
                model, _ = lora.with_adapters(model, resolved(config.lora))
            trainable = trainable_of(config, model, frozen)
            state = levanter_trainer.abstract_state(trainer, model, config.seed, reference, trainable)
            yield Step(trainer, loss, state, levanter_trainer.abstract_batch(trainer, arrays))


def _written(folder: str, name: str, shape: Fields) -> str:
    path = os.path.join(folder, name)
    os.mkdir(path)
    write_json(path, "config.json", shape)
    return path


def _same_sizes(policy: jmp.Policy) -> jmp.Policy:
    """Types of the same sizes that CPUs compute with: for bfloat16, they would hold everything in float32, too."""
    if not has_stand_ins():
        return policy
    names = ("param_dtype", "compute_dtype", "output_dtype")
    types = {name: getattr(policy, name) for name in names}
    return jmp.Policy(**{name: jnp.float16 if of == jnp.bfloat16 else of for name, of in types.items()})


def _objective(
    config: SFTConfig | DPOConfig, training: Training, layout: Layout
) -> tuple[Loss, dict[str, np.ndarray], SyncedReference | None]:
    """The loss, the largest batch, and the model to compare with."""
    if isinstance(config, SFTConfig):
        rows = loss_arrays(assemble([[]] * config.train_batch_size, training.length))
        cut = {name: array.reshape(layout.micro_steps, -1, training.length) for name, array in rows.items()}
        return loss_of(config), cut, None
    paths = (config.base_model, config.reference_model)
    limits = [limits_of(path) for path in paths if path is not None]
    config = replace(config, share_prefix=shares_prefix(config.share_prefix, *limits))
    arrays, reference = pair_arrays(_longest_pairs(config, training.length, layout), None), None
    if config.reference_logprobs is not None:
        arrays["reference"] = np.zeros((layout.micro_steps, 2 * arrays["lengths"].shape[1]), np.float32)
    if training.reference is not None:
        model = abstract_model(training.reference)
        reference = SyncedReference(model, config.ref_model_sync_steps, config.ref_model_mixup_alpha)
    return PairLoss(config), arrays, reference


def _longest_pairs(config: DPOConfig, length: int, layout: Layout) -> PairBatch:
    """A batch of pairs that have no room for another one in their rows."""
    pairs = config.train_batch_size // layout.micro_steps
    each = (1, 2 * length) if config.share_prefix else (2, length)
    rows = -(-pairs * each[0] // layout.devices) * layout.devices
    zeros = np.zeros((layout.micro_steps, rows, each[1]), np.int32)
    return PairBatch(
        tokens=zeros,
        segment_ids=zeros,
        position_ids=zeros,
        completion=zeros - 1,
        lengths=np.zeros((layout.micro_steps, 2 * pairs), np.int32),
        pairs=np.zeros((layout.micro_steps, pairs, 2), np.int64),
        branch=zeros if config.share_prefix else None,
    )


def _bytes(tree: PyTree) -> int:
    """On one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree_util.tree_leaves(tree)
        if isinstance(leaf, jax.ShapeDtypeStruct)
    )
