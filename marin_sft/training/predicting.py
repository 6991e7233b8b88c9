"""Predictions in a process of their own: how many devices a process has is decided before it loads JAX. Light."""

from __future__ import annotations

import os
from dataclasses import dataclass

# Machine code is of no use here. Without excess precision, 16-bit numbers between two operations are held in 16 bits.
# After the pass, which is for CPUs alone, XLA would keep what a layer has computed instead of computing it again.
_FLAGS = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={} {}"
_NOT_FOR_CPUS = "--xla_allow_excess_precision=false --xla_disable_hlo_passes=cse_barrier_expander"


def start(devices: int, platform: str, device: str | None = None) -> None:
    """Makes this process, which must not have loaded JAX, one for predictions for so many devices of `platform`.

    device: see `Target`.
    """
    stand_ins = platform != "cpu" and device is None
    flags = _FLAGS.format(devices, _NOT_FOR_CPUS if stand_ins else "")
    # A program from the cache does not know what memory it needs.
    os.environ |= {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false", "XLA_FLAGS": flags}
    os.environ.pop("JAX_NUM_CPU_DEVICES", None)
    if device is not None:
        # They look for a driver, and for the machine's description; any will do.
        os.environ |= {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_ID": "0"}
        os.environ |= {"TPU_ACCELERATOR_TYPE": "v5p-8", "TPU_WORKER_HOSTNAMES": "localhost"}
    if stand_ins:
        from marin_sft.training.short_products import use_them  # loads JAX

        use_them()


@dataclass(frozen=True)
class Need:
    """Bytes on a device. weights: of the model and of a reference in memory. peak: all. None: not compiled, because
    the rest alone is more than asked for."""

    weights: int
    optimizer: int
    gradients: int
    peak: int | None

    @property
    def least(self) -> int:
        return self.weights + self.optimizer + self.gradients
