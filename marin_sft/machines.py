"""The machines of accelerators: which TPU slices there are, what their hosts are called, and how much memory devices
have. The only such tables.

Sources: https://cloud.google.com/tpu/docs/v4 and the pages of the other generations, and
https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus for the names in GKE.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product

CHIPS_PER_HOST = 4


@dataclass(frozen=True)
class Slice:
    """`hosts` machines with `chips` TPU chips each."""

    hosts: int
    chips: int


@dataclass(frozen=True)
class Host:
    """A machine with TPU chips. machine: Google's name. memory: GB."""

    machine: str
    cpus: int
    memory: int


@dataclass(frozen=True)
class TpuGeneration:
    """cores: per chip; a type such as "v4-8" counts cores. devices: per chip, as JAX counts them. largest_host: the
    most chips of a slice with one host.

    topologies: how the chips of a slice are connected, by their number. Where several are possible, the most compact.
    runtime: the image of a TPU VM. gke: the accelerator's name in GKE. hosts: by their number of chips. These three are
    known for the generations for which `infra/` makes files.
    """

    cores: int
    topologies: Mapping[int, str]
    largest_host: int = CHIPS_PER_HOST
    devices: int = 1
    runtime: str | None = None
    gke: str | None = None
    hosts: Mapping[int, Host] = field(default_factory=dict)


def _grids(*sizes: str) -> dict[int, str]:
    found = {}
    for size in sizes:
        chips = 1
        for side in size.split("x"):
            chips *= int(side)
        found[chips] = size
    return found


def _cubes(x: int, y: int, z: int) -> dict[int, str]:
    """All slices of whole cubes of 4x4x4 chips, up to these sides; the one whose longest side is shortest, per size."""
    found: dict[int, str] = {}
    for c, b, a in product(range(4, z + 1, 4), range(4, y + 1, 4), range(4, x + 1, 4)):
        if a <= b <= c:
            found.setdefault(a * b * c, f"{a}x{b}x{c}")
    return dict(sorted(found.items()))


_PARTS_OF_A_CUBE = _grids("2x2x1", "2x2x2", "2x2x4", "2x4x4")
_FLAT = _grids("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")

TPUS = {
    "v2": TpuGeneration(cores=2, devices=2, topologies=_grids("2x2", "4x4", "4x8", "8x8", "8x16", "16x16")),
    "v3": TpuGeneration(
        cores=2, devices=2, topologies=_grids("2x2", "4x4", "4x8", "8x8", "8x16", "16x16", "16x32", "32x32")
    ),
    "v4": TpuGeneration(
        cores=2,
        topologies={**_PARTS_OF_A_CUBE, **_cubes(12, 12, 16)},
        runtime="tpu-ubuntu2204-base",
        gke="tpu-v4-podslice",
        hosts={4: Host("ct4p-hightpu-4t", cpus=240, memory=407)},
    ),
    "v5p": TpuGeneration(
        cores=2,
        topologies={**_PARTS_OF_A_CUBE, **_cubes(16, 16, 24)},
        runtime="v2-alpha-tpuv5",
        gke="tpu-v5p-slice",
        hosts={4: Host("ct5p-hightpu-4t", cpus=208, memory=448)},
    ),
    "v5litepod": TpuGeneration(
        cores=1,
        topologies=_FLAT,
        largest_host=8,
        runtime="v2-alpha-tpuv5-lite",
        gke="tpu-v5-lite-podslice",
        hosts={
            1: Host("ct5lp-hightpu-1t", cpus=24, memory=48),
            4: Host("ct5lp-hightpu-4t", cpus=112, memory=192),
            8: Host("ct5lp-hightpu-8t", cpus=224, memory=384),
        },
    ),
    "v6e": TpuGeneration(
        cores=1,
        topologies=_FLAT,
        largest_host=8,
        runtime="v2-alpha-tpuv6e",
        gke="tpu-v6e-slice",
        hosts={
            1: Host("ct6e-standard-1t", cpus=44, memory=176),
            4: Host("ct6e-standard-4t", cpus=180, memory=720),
            8: Host("ct6e-standard-8t", cpus=180, memory=1440),
        },
    ),
    "v7x": TpuGeneration(
        cores=2,
        devices=2,
        topologies={**_PARTS_OF_A_CUBE, **_grids("4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")},
    ),
}
"""By Ray's name, which is Google's except for v5e."""

OTHER_NAMES = {"v5e": "v5litepod"}
"""Google's name of a generation, and Ray's."""


# GiB of one device, as JAX counts devices. Of GPUs, what CUDA reports; of TPUs, what XLA leaves to programs. The names
# are Ray's and, for cards that Ray has no name for, NVIDIA's.
_GPUS = {
    "T4": 14.6, "V100": 15.8, "A10G": 22.0, "L4": 22.0, "L40S": 44.4, "A100-40G": 39.4, "A100-80G": 79.1,
    "H100": 79.1, "H200": 139.7, "B200": 178.3, "RTX-3090": 23.7, "RTX-4090": 23.5,
}  # fmt: skip
_TPU_DEVICES = {"v2": 7.5, "v3": 15.5, "v4": 30.7, "v5p": 95.7, "v5litepod": 15.7, "v6e": 31.2, "v7x": 94.7}
GPU_SHARE = 0.92
"""The part of a GPU's memory that a step's process lets JAX take. By itself, JAX would leave a quarter unused. What is
left here is for libraries that allocate by themselves."""


@dataclass(frozen=True)
class Device:
    """name: as in the tables above. platform: JAX's name. memory: bytes."""

    name: str
    platform: str
    memory: int


def devices() -> dict[str, Device]:
    """By name."""
    tables = {"gpu": _GPUS, "tpu": _TPU_DEVICES}
    return {
        name: Device(name, platform, int(gib * 2**30))
        for platform, sizes in tables.items()
        for name, gib in sizes.items()
    }


def device_of(name: str) -> Device | None:
    """The device of that name, in any case, with "G" or "GB"; "A100" is the smaller of the two. None: not known."""
    known = {device.name.lower(): device for device in devices().values()}
    name = name.lower().replace("gb", "g")
    return known.get({**OTHER_NAMES, "a100": "a100-40g"}.get(name, name))


def slice_of(tpu_type: str) -> Slice | None:
    """The machines of a slice such as "v4-128". None: there is no such slice."""
    found = _find(tpu_type)
    if found is None:
        return None
    generation, chips = found
    if chips <= generation.largest_host:
        return Slice(1, chips)
    return Slice(chips // CHIPS_PER_HOST, CHIPS_PER_HOST)


def topology_of(tpu_type: str) -> str | None:
    """How the chips of a slice such as "v4-128" are connected: "4x4x4". None: there is no such slice."""
    found = _find(tpu_type)
    return found and found[0].topologies[found[1]]


def types_of(kind: str) -> list[str]:
    """The slices of a generation such as "v4", by size."""
    generation = TPUS[kind]
    return [f"{kind}-{chips * generation.cores}" for chips in sorted(generation.topologies)]


def named(kinds: Iterable[str] = TPUS) -> str:
    """The generations by Google's names."""
    googles = {ray: google for google, ray in OTHER_NAMES.items()}
    return ", ".join(googles.get(kind, kind) for kind in kinds)


def nearest_types(tpu_type: str) -> list[str]:
    """Of a type such as "v4-12", which there is not: the next smaller and the next larger, as far as there are."""
    kind, _, size = tpu_type.partition("-")
    ray = OTHER_NAMES.get(kind, kind)
    if ray not in TPUS or not size.isdecimal():
        return []
    cores = sorted(chips * TPUS[ray].cores for chips in TPUS[ray].topologies)
    near = [*[n for n in cores if n < int(size)][-1:], *[n for n in cores if n > int(size)][:1]]
    return [f"{kind}-{n}" for n in near]


def _find(tpu_type: str) -> tuple[TpuGeneration, int] | None:
    kind, _, size = tpu_type.partition("-")
    generation = TPUS.get(kind)
    if generation is None or not (size.isascii() and size.isdecimal()) or size.startswith("0"):
        return None
    chips, odd = divmod(int(size), generation.cores)
    return None if odd or chips not in generation.topologies else (generation, chips)
