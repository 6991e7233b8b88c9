"""Log-probabilities of preference pairs under a fixed model, computed once for all trainings that compare with it.

{output_path}/{component}/{split}/logps.npy    float32[pairs, 4] for the pairs of the mixture's component, in its order:
                                               chosen, rejected, and of each the part beyond the shorter one's length
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from levanter.models.lm_model import LmHeadModel
from levanter.trainer import Trainer

from marin_sft import progress
from marin_sft.data.batches.pair_batches import PairBatch, PairValidation
from marin_sft.data.files import write_array
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.errors import TrainingError
from marin_sft.training import levanter_trainer, processes
from marin_sft.training.activations import shares_prefix
from marin_sft.training.axes import MICRO
from marin_sft.training.completions import completion_arrays, completions
from marin_sft.training.dpo_config import ReferenceConfig
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.mesh import fitting_mesh
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_check import check_tokens, limits_of
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.references import logps_path


def reference_logprobs(config: ReferenceConfig) -> None:
    """Write the summed log-probabilities of all completions, in nats, for every component and split of the mixture.

    Raises:
        TrainingError: the model is not what its config.json says, or too small for the pairs' tokens.
        DataError: the mixture does not hold pairs.
    """
    directory = ModelDirectory(config.model, config.rope_scaling)
    mesh = fitting_mesh(directory.config)
    settings = levanter_trainer.trainer_config(precision=config.precision, seed=0, mesh=mesh)
    trainer = levanter_trainer.build_trainer(settings, optax.identity())
    limits = limits_of(directory)
    with trainer:
        adapter = None if config.adapter is None else LoraConfig(adapter_path=config.adapter)
        model = levanter_model.load_model(directory, axis_mapping=trainer.parameter_axis_mapping, lora=adapter)
        model = hax.named_jit(trainer.mp.cast_to_compute)(model)
        logps_of = _compiled(trainer)
        mixture = PackedMixture.open(config.mixture, config.tokenized)
        for component, splits in sorted(mixture.about["components"].items()):
            for split, counts in sorted(splits.items()):
                batches = PairValidation(
                    mixture,
                    component,
                    config.batch_size,
                    split=split,
                    rows_multiple=settings.data_axis_size,
                    share_prefix=shares_prefix(None, limits),
                )
                found = np.empty((counts["pairs"], 4), np.float32)
                for done, batch in enumerate(batches, 1):
                    check_tokens(batch.tokens, int(batch.position_ids.max(initial=0)) + 1, limits)
                    numbers = batch.pairs[0, :, 1]
                    values = logps_of(model, batch)
                    found[numbers[numbers >= 0]] = values[numbers >= 0]
                    progress.report(done, len(batches), f"batches of {component} {split}")
                if not np.isfinite(found).all():
                    raise TrainingError(f"{config.model}: log-probabilities of {component} {split} are not all finite")
                path = logps_path(config.output_path, component, split)
                processes.by_first(functools.partial(write_array, path, found))


def _compiled(trainer: Trainer) -> Callable[[LmHeadModel, PairBatch], np.ndarray]:
    def of_pairs(model: LmHeadModel, batch: Mapping[str, hax.NamedArray]) -> jax.Array:
        with hax.axis_mapping(trainer.compute_axis_mapping):
            found = completions(model, {name: array[MICRO, 0] for name, array in batch.items()})
        return jnp.concatenate([found.logps, found.tails], axis=1)

    compiled = hax.named_jit(of_pairs, axis_resources=trainer.compute_axis_mapping, out_axis_resources={})

    def logps_of(model: LmHeadModel, batch: PairBatch) -> np.ndarray:
        return np.asarray(compiled(model, levanter_trainer.to_devices(trainer, completion_arrays(batch))))

    return logps_of
