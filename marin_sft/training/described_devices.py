"""What XLA's compilers for GPUs and TPUs have to know of devices that are not there. Light."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from marin_sft.machines import TPUS, devices

_FOR_GPUS, _FOR_TPUS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"), ("libtpu",)
# By the names of `machines`. Of a v4, whose two cores JAX uses as one device, libtpu describes the cores.
_TPU_NAMES = {"v5litepod": "v5e", "v5p": "v5p", "v6e": "v6e", "v7x": "tpu7x"}


@dataclass(frozen=True)
class Chip:
    """capability: NVIDIA's compute capability. cores: streaming multiprocessors. bandwidth: bytes of memory per second.
    cache: bytes of L2. clock: GHz."""

    capability: str
    cores: int
    bandwidth: float
    cache: int
    clock: float


# From NVIDIA's data sheets and XLA's own specifications (xla/backends/gpu/target_config/specs).
CHIPS = {
    "A10G": Chip("8.6", 80, 600e9, 6 << 20, 1.71),
    "L4": Chip("8.9", 58, 300e9, 48 << 20, 2.04),
    "L40S": Chip("8.9", 142, 864e9, 96 << 20, 2.52),
    "A100-40G": Chip("8.0", 108, 1555e9, 40 << 20, 1.41),
    "A100-80G": Chip("8.0", 108, 2039e9, 40 << 20, 1.41),
    "H100": Chip("9.0", 132, 3352e9, 50 << 20, 1.98),
    "H200": Chip("9.0", 132, 4800e9, 50 << 20, 1.98),
    "B200": Chip("10.0", 148, 7672e9, 126 << 20, 1.965),
    "RTX-3090": Chip("8.6", 82, 936e9, 6 << 20, 1.7),
    "RTX-4090": Chip("8.9", 128, 1008e9, 72 << 20, 2.52),
}
# Of a core, by compute capability: shared memory (KiB), threads, and units for float32. A block can have all of the
# shared memory but 1 KiB. From the tables of the CUDA C++ programming guide.
_CORES = {"8.0": (164, 2048, 64), "8.6": (100, 1536, 128), "8.9": (100, 1536, 128), "9.0": (228, 2048, 128)}
_CORES["10.0"] = _CORES["9.0"]


def has_compiler(device: str, count: int) -> bool:
    """Whether so many of this device of `machines.devices()` can be compiled for here."""
    packages = _FOR_GPUS if device in CHIPS else _FOR_TPUS if tpu_topology(device, count) else ()
    return any(map(_is_installed, packages))


def tpu_topology(device: str, count: int) -> str | None:
    """libtpu's name of a slice with so many devices, such as "v5e:2x4". None: there is none, or it is not known."""
    if device not in _TPU_NAMES:
        return None
    chips, rest = divmod(count, TPUS[device].devices)
    found = None if rest else TPUS[device].topologies.get(chips)
    return found and f"{_TPU_NAMES[device]}:{found}"


def shared_memory(capability: str) -> int:
    """Bytes that a block of threads can have. Of GPUs that are not in the table, the least of those that are."""
    kib, *_ = _CORES.get(capability, min(_CORES.values()))
    return (kib - 1) << 10


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # no plugins at all
        return False


def gpu_description(device: str) -> str:
    """XLA's `GpuTargetConfigProto`, of a device in `CHIPS`."""
    chip, memory = CHIPS[device], devices()[device].memory
    shared, threads, units = _CORES[chip.capability]
    major, minor = chip.capability.split(".")
    extension = "ACCELERATED_FEATURES" if int(major) >= 9 else "NONE"
    return f"""
        platform_name: "CUDA"
        device_description_str: "{device}"
        dnn_version_info {{ major: 9 minor: 10 }}
        gpu_device_info {{
            cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
            name: "{device}" device_vendor: "NVIDIA Corporation" device_address_bits: 64
            driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
            dnn_version: "9.10.0"
            core_count: {chip.cores} fpus_per_core: {units} clock_rate_ghz: {chip.clock}
            threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: {threads}
            registers_per_block_limit: 65536 registers_per_core_limit: 65536
            shared_memory_per_block: 49152 shared_memory_per_core: {shared << 10}
            shared_memory_per_block_optin: {shared_memory(chip.capability)}
            memory_bandwidth: {chip.bandwidth:.0f} l2_cache_size: {chip.cache} device_memory_size: {memory}
            pcie_bandwidth: 34359738368
            block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
            thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
        }}
    """
