"""What a trainer's steps run on by default: what the surrounding `@execute` was given, or this machine's GPUs."""

from __future__ import annotations

import os
import re

from marin_sft.execution.resources import CpuConfig, GpuConfig, Resources, TpuPodConfig, gpus_here

_CORES_PER_DEVICE = {"v2": 1, "v3": 1, "v4": 2, "v5p": 2}


def default_resources() -> Resources:
    """The slice or GPUs of the surrounding `@execute`; else all GPUs of this machine, or its processors."""
    from marin_sft.executor.ray import surrounding_resources

    given = surrounding_resources()
    if given is not None:
        return given
    gpus = gpus_here()
    return GpuConfig(gpu_count=gpus) if gpus else CpuConfig()


def device_count(resources: Resources) -> int:
    """How many devices JAX will see: by them, batches per device are multiplied."""
    if isinstance(resources, GpuConfig):
        return max(1, int(resources.gpu_count))
    if isinstance(resources, TpuPodConfig):
        kind, _, cores = resources.tpu_type.rpartition("-")
        return int(cores) // _CORES_PER_DEVICE.get(kind, 1) * resources.slice_count
    forced = re.findall(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return int(forced[-1]) if forced else 1
