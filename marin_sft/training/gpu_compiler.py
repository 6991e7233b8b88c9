"""Programs for NVIDIA GPUs from their own compiler, on a machine without one. It comes with `marin_sft[gpu]`.

XLA compiles for a GPU that it is told about: https://docs.jax.dev/en/latest/aot.html. The program is traced on CPUs,
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
from marin_sft.training.gpu_chips import CHIPS, description

if TYPE_CHECKING:
    from marin_sft.training.train_step import Program

# Of kernels. An export refuses those that a later version may not know.
_CALLS = ("mosaic_gpu_v2", "__gpu$xla.gpu.triton", "triton_kernel_call")


def compiled(make: Callable[[], Program], device: str) -> jax.stages.Compiled:
    """What `make` returns, laid out on the context's mesh of CPUs, for as many GPUs.

    device: a name in `gpu_chips.CHIPS`.
    """
    gpus = _gpus(device, jax.device_count())
    checks = [export.DisabledSafetyCheck.custom_call(name) for name in _CALLS]
    with _kernels_of(gpus[0]):
        program = make()
        traced = export.export(program.function, platforms=["cuda"], disabled_checks=checks)(*program.shapes)

    cpus = jax.sharding.get_mesh()
    mesh = Mesh(np.array(gpus).reshape(cpus.devices.shape), cpus.axis_names, cpus.axis_types)

    def on_gpus(leaf: jax.ShapeDtypeStruct | NamedSharding) -> jax.ShapeDtypeStruct | NamedSharding:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_gpus(leaf.sharding))
        return NamedSharding(mesh, leaf.spec)

    shapes, layouts = jax.tree_util.tree_map(on_gpus, (program.shapes, program.layouts))
    with jax.set_mesh(mesh):
        return jax.jit(traced.call, donate_argnums=0, out_shardings=layouts).lower(*shapes).compile()


@functools.cache
def _gpus(device: str, count: int) -> list[jax.Device]:
    """So many that can be compiled for, but not used, in one machine."""
    jax.devices()  # loads the plugins
    found = topologies.get_topology_desc(platform="cuda", topology=f"1x1x{count}", target_config=description(device))
    # Those that are there have these, and kernels ask for them.
    kind, chip = type(found.devices[0]), CHIPS[device]
    kind.compute_capability, kind.core_count = chip.capability, chip.cores
    return found.devices


@contextmanager
def _kernels_of(gpu: jax.Device) -> Iterator[None]:
    """Kernels are chosen for `gpu`, although the program is laid out on CPUs."""
    from tokamax._src import config

    kernels.prepare_tokamax()
    with jax.default_device(gpu), config.cross_compile(True):
        yield
