"""What a step needs to run on. Values only; never part of a step's identity."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Resources:
    """Base of all resource requests: `cpus` cores and `memory` bytes (None: no demand)."""

    cpus: float = 1
    memory: int | None = None


@dataclass(frozen=True)
class CpuConfig(Resources):
    """CPU cores only."""


@dataclass(frozen=True)
class GpuConfig(Resources):
    """`gpu_count` GPUs on one host, of `accelerator_type` (Ray's name, e.g. "H100"; None: any)."""

    gpu_count: int = 1
    accelerator_type: str | None = None


@dataclass(frozen=True)
class TpuPodConfig(Resources):
    """`slice_count` slices of `tpu_type`, e.g. "v4-128"."""

    tpu_type: str = field(kw_only=True)
    slice_count: int = 1
