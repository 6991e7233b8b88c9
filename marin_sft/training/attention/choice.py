"""Which attention is computed where."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from levanter.layers.attention import AttentionBackend

from marin_sft.errors import TrainingError
from marin_sft.training.attention import kernels
from marin_sft.training.attention.packed import Kernel, configs_of
from marin_sft.training.cpu.one_cpu import on_one_cpu
from marin_sft.training.devices import RUNS_ON
from marin_sft.training.target import has_stand_ins, target

if TYPE_CHECKING:
    from levanter.models.lm_model import LmConfig, LmHeadModel

TOKAMAX = AttentionBackend.DEFAULT
"""Levanter has no name for it, and its own default for GPUs falls back to a slow path without an error."""
_FLASH = (TOKAMAX, AttentionBackend.NVTE, AttentionBackend.SPLASH)


def backend_for(levanter: LmConfig, name: str | None, splits_sequence: bool = False) -> AttentionBackend:
    """The backend for Levanter's config of a model.

    `name`: `attention_backend`. `splits_sequence`: positions of a row are spread over devices.

    Raises:
        TrainingError: it does not run here, or not for this model.
    """
    platform, windowed = target().platform, getattr(levanter, "sliding_window", None) is not None
    if name not in (None, "default"):
        return _required(name, platform, windowed)
    if platform == "tpu":
        return AttentionBackend.SPLASH
    if platform == "gpu":
        return _required("tokamax", platform, windowed)
    # On CPUs, flash attention is not faster. But without it, long rows do not fit.
    return AttentionBackend.JAX_FLASH if splits_sequence else AttentionBackend.VANILLA


def _required(name: str, platform: str, windowed: bool) -> AttentionBackend:
    needs = RUNS_ON.get(name)
    asked = f"attention_backend = {name!r}"
    if needs not in (None, platform):
        raise TrainingError(f"{asked}: runs on {needs} only, and the devices here are {platform}; leave it out")
    package = {"tokamax": "tokamax", "nvte": "transformer_engine"}.get(name)
    if package is not None and not has_stand_ins() and importlib.util.find_spec(package) is None:
        install = "pip install 'marin_sft[gpu]'" if name == "tokamax" else "install it"
        raise TrainingError(
            f"{asked}: needs the package {package}; {install}, or use attention_backend = 'jax_flash', which is slower"
        )
    if name == "nvte" and windowed:
        raise TrainingError(f"{asked}: ignores the sliding window that this model has; leave it out")
    return TOKAMAX if name == "tokamax" else AttentionBackend(name)


def kernel_for(model: LmHeadModel) -> Kernel | None:
    """None: Levanter's own attention, by its backend."""
    configs = configs_of(model)
    if not configs:
        return None
    backend = configs[0].attn_backend
    if on_one_cpu():
        plain = all(config.sliding_window is None and config.logits_soft_cap is None for config in configs)
        return kernels.cpu_blocks if plain and backend == AttentionBackend.VANILLA else None
    if has_stand_ins() and backend in _FLASH:
        return kernels.of_equal_memory
    if backend == TOKAMAX and target().platform == "gpu":
        return kernels.Tokamax(_implementation(model))
    return kernels.chunked if backend == AttentionBackend.JAX_FLASH and kernels.spreads_positions() else None


def _implementation(model: LmHeadModel) -> str:
    dtype = next(leaf.dtype for leaf in jax.tree_util.tree_leaves(model) if jnp.issubdtype(leaf.dtype, jnp.inexact))
    hopper = float(jax.devices()[0].compute_capability) >= 9
    return "mosaic_gpu" if hopper and dtype.itemsize == 2 else "triton"


def told(model: LmHeadModel, asked: str | None) -> str:
    """Which attention is computed, and why. Call it within the trainer's context. `asked`: `attention_backend`."""
    kernel = kernel_for(model)
    if isinstance(kernel, kernels.Tokamax):
        what = f"tokamax, {kernel.implementation}"
    elif kernel is kernels.chunked:
        what = "in plain JAX, for positions that are spread over devices"
    elif kernel is kernels.cpu_blocks:
        what = "block by block within documents"
    else:
        found = configs_of(model)
        what = f"Levanter's {found[0].attn_backend}" if found else "Levanter's"
    return f"{what}; {'asked for' if asked not in (None, 'default') else f'the default on {_device_name()}'}"


def _device_name() -> str:
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"
