"""What a trainer's steps run on by default: what the surrounding `@execute` was given, or this machine's GPUs."""

from __future__ import annotations

import os
import re

from marin_sft.execution.resources import CpuConfig, GpuConfig, Resources, check_resources, device_count, gpus_here


def default_resources() -> Resources:
    """The slice or GPUs of the surrounding `@execute`; else all GPUs of this machine, or its processors."""
    from marin_sft.executor.ray import surrounding_resources

    given = surrounding_resources()
    if given is not None:
        return given
    gpus = gpus_here()
    return GpuConfig(gpu_count=gpus) if gpus else CpuConfig()


def devices_seen(resources: Resources) -> int:
    """How many devices JAX will see: by them, batches per device are multiplied.

    Raises:
        ConfigError: a request that no cluster can serve.
    """
    check_resources("resources", resources)
    forced = re.findall(r"xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    per_host = int(forced[-1]) if forced and isinstance(resources, CpuConfig) else 1
    return device_count(resources) * per_host
