"""Statistics of the weights, tensor by tensor, to see how training changes them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from haliax.state_dict import flatten_modules_for_export, to_state_dict

if TYPE_CHECKING:
    from levanter.models.lm_model import LmHeadModel

    from marin_sft.training.metrics.tracker import Histograms

BINS = 64


def weight_distribution(model: LmHeadModel, pattern: str) -> tuple[dict[str, float], Histograms]:
    """For the tensors whose Hugging Face names contain the regular expression `pattern`: figures
    weights/{name}/{mean,std,max_abs}, and histograms weights/{name}: float counts of 64 bins, and 65 edges."""
    found = jax.device_get(_of_tensors(model, pattern))
    figures: dict[str, float] = {}
    histograms: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, (mean, std, max_abs, counts, edges) in found.items():
        each = {"mean": mean, "std": std, "max_abs": max_abs}
        figures |= {f"weights/{name}/{figure}": float(value) for figure, value in each.items()}
        histograms[f"weights/{name}"] = (np.asarray(counts, np.float64), np.asarray(edges, np.float64))
    return figures, histograms


@eqx.filter_jit
def _of_tensors(model: LmHeadModel, pattern: str) -> dict[str, tuple[jax.Array, ...]]:
    tensors = to_state_dict(flatten_modules_for_export(model))
    return {name: _figures(tensor) for name, tensor in tensors.items() if re.search(pattern, name)}


def _figures(tensor: jax.Array) -> tuple[jax.Array, ...]:
    values = tensor.astype(jnp.float32).ravel()
    return values.mean(), values.std(), jnp.abs(values).max(), *jnp.histogram(values, bins=BINS)
