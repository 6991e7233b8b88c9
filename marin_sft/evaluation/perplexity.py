"""How well a model predicts the trained tokens of tokenized validation data.

{output_path}/metrics.json   {"loss": nats per trained token, "perplexity": exp(loss), "trained_tokens": n}; with
                             several components, also "loss/NAME" etc. for each
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from marin_sft import progress
from marin_sft.data.batches.packed_batches import ValidationBatches
from marin_sft.data.files import write_json
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.data.tokenizer import vocabulary_hash
from marin_sft.errors import DataError, TrainingError
from marin_sft.evaluation.step_configs import PerplexityConfig
from marin_sft.training import levanter_trainer, processes
from marin_sft.training.loss import Batch
from marin_sft.training.mesh import fitting_mesh
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.validation import summed_nll

DTYPES = {"fp32": jnp.float32, "bf16": jnp.bfloat16}


@dataclass(frozen=True)
class Total:
    """NLL in nats, summed over `tokens` trained tokens."""

    nll: float = 0.0
    tokens: int = 0

    def __add__(self, other: Total) -> Total:
        return Total(self.nll + other.nll, self.tokens + other.tokens)

    def metrics(self, suffix: str = "") -> dict[str, float]:
        loss = self.nll / self.tokens
        return {f"loss{suffix}": loss, f"perplexity{suffix}": math.exp(loss), f"trained_tokens{suffix}": self.tokens}


def perplexity(config: PerplexityConfig) -> None:
    """Mean NLL per trained token, over all validation rows and for each component.

    Raises:
        DataError: there are no validation rows, or they were not made with the model's tokenizer.
        TrainingError: the model is not a model directory, rows are too long for it, or an NLL is not finite.
    """
    mixture = PackedMixture.open(config.mixture, config.tokenized)
    if not mixture.validated:
        raise DataError(f"{config.mixture}: no validation rows; expected a mixture whose components have some")
    directory = ModelDirectory(config.model)
    if vocabulary_hash(directory.tokenizer()) != mixture.about["vocabulary"]:
        raise DataError(
            f"{config.mixture} was not made with the tokenizer of {config.model}; tokenize the validation data with "
            "the model's own"
        )
    nll_of = _nll_of(config, directory, mixture.seq_len)
    totals = {name: _total(config, mixture, name, nll_of) for name in mixture.validated}
    metrics = sum(totals.values(), Total()).metrics()
    if len(totals) > 1:
        for name, total in totals.items():
            metrics |= total.metrics(f"/{name}")
    if not all(map(math.isfinite, metrics.values())):
        raise TrainingError(f"{config.model}: got {metrics}, expected finite numbers; look at how it was trained")
    processes.by_first(lambda: write_json(f"{config.output_path}/metrics.json", metrics))


def _total(config: PerplexityConfig, mixture: PackedMixture, name: str, nll_of: Callable[[Batch], float]) -> Total:
    devices = jax.device_count()
    batch_size = math.ceil(config.batch_size / devices) * devices
    batches = ValidationBatches(mixture, name, batch_size)
    total = Total()
    for done, batch in enumerate(batches, 1):
        total += Total(nll_of(batch), batch.trained_tokens)
        progress.report(done, len(batches), f"batches of {name}")
    return total


def _nll_of(config: PerplexityConfig, directory: ModelDirectory, length: int) -> Callable[[Batch], float]:
    """A function from a batch of rows of `length` tokens to its summed NLL under the config's model, on all devices."""
    mesh = fitting_mesh(directory.config)
    devices = levanter_trainer.trainer_config(precision="fp32", seed=0, mesh=mesh)  # the model has the precision
    with devices.use_device_mesh():
        model = levanter_model.load_model(
            directory, dtype=DTYPES[config.precision], axis_mapping=devices.parameter_axis_mapping
        )
    if length > model.max_length:
        raise TrainingError(
            f"{config.mixture}: rows of {length} tokens, expected at most {model.max_length}, the model's maximum "
            "length; pack the validation data with a shorter seq_len"
        )
    nll = summed_nll(devices)

    def nll_of(batch: Batch) -> float:
        with devices.use_device_mesh():
            return nll(model, batch)

    return nll_of
