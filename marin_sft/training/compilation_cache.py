"""Keeps compiled programs between processes, so that a second training of the same shapes starts at once."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import jax

_BYTES = 4 * 2**30
_SHORTEST = 0.1  # seconds to compile what is kept; small models have many programs under JAX's own limit of one second


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache directory, unless JAX was told where, or not to (its own variables
    `JAX_COMPILATION_CACHE_DIR` and `JAX_ENABLE_COMPILATION_CACHE`)."""
    if jax.config.jax_compilation_cache_dir is not None or not jax.config.jax_enable_compilation_cache:
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "marin_sft" / f"jax-{_processor()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:  # no home, or none that can be written
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_compilation_cache_max_size", _BYTES)
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _SHORTEST)


def _processor() -> str:
    """Programs for CPUs use the instructions of the one they were compiled on; homes are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    about = {line for line in lines if line.startswith(("model name", "flags", "Features"))} or set(lines)
    return hashlib.sha256("\n".join(sorted(about)).encode()).hexdigest()[:8]
