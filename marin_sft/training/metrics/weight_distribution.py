"""Figures of weights, tensor by tensor, to see how training changes them."""

from __future__ import annotations

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from haliax.state_dict import flatten_modules_for_export, to_state_dict

BINS = 64


def weight_distribution(model: Any, pattern: str) -> tuple[dict[str, float], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """For the tensors with the regular expression `pattern` in their Hugging Face names: figures
    weights/{name}/{mean,std,max_abs}, and by weights/{name} the histogram, float counts of 64 bins and 65 edges."""
    found = jax.device_get(_of_tensors(model, pattern))
    figures: dict[str, float] = {}
    histograms: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, (mean, std, max_abs, counts, edges) in found.items():
        each = {"mean": mean, "std": std, "max_abs": max_abs}
        figures |= {f"weights/{name}/{figure}": float(value) for figure, value in each.items()}
        histograms[f"weights/{name}"] = (np.asarray(counts, np.float64), np.asarray(edges, np.float64))
    return figures, histograms


@eqx.filter_jit
def _of_tensors(model: Any, pattern: str) -> dict[str, tuple[jax.Array, ...]]:
    tensors = to_state_dict(flatten_modules_for_export(model))
    return {name: _figures(tensor) for name, tensor in tensors.items() if re.search(pattern, name)}


def _figures(tensor: jax.Array) -> tuple[jax.Array, ...]:
    values = tensor.astype(jnp.float32).ravel()
    return values.mean(), values.std(), jnp.abs(values).max(), *jnp.histogram(values, bins=BINS)
