"""The loss and its gradient on all devices of this process, by mesh: run in a process with several, see `processes`."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import haliax as hax
import jax
import numpy as np
import optax
from haliax.state_dict import to_torch_compatible_state_dict

from marin_sft.training import levanter_trainer
from marin_sft.training.loss import Batch, LossBatch, loss_arrays, nll, row_nll
from marin_sft.training.models.architectures import levanter_config
from marin_sft.training.models.model_config import Fields
from marin_sft.training.sft_config import Terms


def loss_and_gradient(config: Fields, batch: Batch, mesh: Any, z_loss_weight: float = 0.0) -> dict[str, np.ndarray]:
    """ "loss", "rows" (the loss of each row), and the gradient by Hugging Face name. `config`: of a config.json."""
    settings = levanter_trainer.trainer_config(precision="fp32", seed=0, mesh=mesh)
    trainer = levanter_trainer.build_trainer(settings, optax.sgd(1.0))
    with trainer:
        splits = trainer.device_mesh.shape["context"] > 1
        build = levanter_config(config, splits_sequence=splits).build
        model = hax.named_jit(
            lambda key: build(hax.Axis("vocab", config["vocab_size"]), key=key),
            out_axis_resources=trainer.parameter_axis_mapping,
        )(jax.random.PRNGKey(0))
        arrays = {name: array[None] for name, array in loss_arrays(batch).items()}
        placed = {name: array["micro_batch", 0] for name, array in levanter_trainer.to_devices(trainer, arrays).items()}

        @hax.named_jit(axis_resources=trainer.parameter_axis_mapping)
        def compute(model: Any, placed: Any) -> Any:
            with hax.axis_mapping(trainer.compute_axis_mapping):
                rows, terms = LossBatch(**placed), Terms(z_loss_weight=z_loss_weight)
                loss, gradient = eqx.filter_value_and_grad(lambda model: nll(model, rows, terms))(model)
                return loss, row_nll(model, rows), gradient

        loss, rows, gradient = compute(model, placed)
        tensors = to_torch_compatible_state_dict(gradient)
    return {"loss": np.asarray(loss), "rows": np.asarray(rows.array), **{k: np.asarray(v) for k, v in tensors.items()}}
