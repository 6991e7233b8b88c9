"""Programs for GPUs and TPUs from their own compilers, on machines without them. They come with `marin_sft[gpu]` and
`marin_sft[tpu]`.

XLA compiles for devices that it is told about: https://docs.jax.dev/en/latest/aot.html. The program is traced on CPUs,
since JAX computes some small arrays at once, which needs devices that are there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax import export
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from marin_sft.training.attention import kernels
from marin_sft.training.described_devices import CHIPS, gpu_description, tpu_topology

if TYPE_CHECKING:
    from marin_sft.training.train_step import Program

# Of kernels. An export refuses those that a later version may not know.
_CALLS = ("mosaic_gpu_v2", "__gpu$xla.gpu.triton", "triton_kernel_call", "tpu_custom_call")


def compiled(make: Callable[[], Program], device: str) -> jax.stages.Compiled:
    """What `make` returns, laid out on the context's mesh of CPUs, for as many devices of another kind.

    device: one that `has_compiler`, in `described_devices`.
    """
    others = _devices(device, jax.device_count())
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in _CALLS]
    with _kernels_of(others[0]):
        program = make()
        platform = {"gpu": "cuda"}.get(others[0].platform, others[0].platform)
        traced = export.export(program.function, platforms=[platform], disabled_checks=checks)(*program.shapes)

    cpus = jax.sharding.get_mesh()
    mesh = Mesh(np.array(others).reshape(cpus.devices.shape), cpus.axis_names, cpus.axis_types)

    def on_others(leaf: jax.ShapeDtypeStruct | NamedSharding) -> jax.ShapeDtypeStruct | NamedSharding:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_others(leaf.sharding))
        return NamedSharding(mesh, leaf.spec)

    shapes, layouts = jax.tree_util.tree_map(on_others, (program.shapes, program.layouts))
    with jax.set_mesh(mesh):
        return jax.jit(traced.call, donate_argnums=0, out_shardings=layouts).lower(*shapes).compile()


@functools.cache
def _devices(device: str, count: int) -> list[jax.Device]:
    """So many that can be compiled for, but not used."""
    jax.devices()  # loads the plugins
    if device not in CHIPS:
        one = {"chips_per_host_bounds": (1, 1, 1)} if count == 1 else {}
        return topologies.get_topology_desc(tpu_topology(device, count), platform="tpu", **one).devices
    found = topologies.get_topology_desc(
        platform="cuda", topology=f"1x1x{count}", target_config=gpu_description(device)
    )
    # Those that are there have these, and kernels ask for them.
    kind, chip = type(found.devices[0]), CHIPS[device]
    kind.compute_capability, kind.core_count = chip.capability, chip.cores
    return found.devices


@contextmanager
def _kernels_of(device: jax.Device) -> Iterator[None]:
    """Kernels are chosen for `device`, although the program is laid out on CPUs."""
    if device.platform != "gpu":
        yield
        return
    from tokamax._src import config

    kernels.prepare_tokamax()
    with jax.default_device(device), config.cross_compile(True):
        yield
