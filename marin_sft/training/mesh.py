"""How the devices share the work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marin_sft.arguments import NamedFields
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.nearest import did_you_mean
from marin_sft.training.checks import check_types, require, unresolved
from marin_sft.training.models.model_config import Fields

if TYPE_CHECKING:
    from levanter.utils.mesh import MeshConfig as LevanterMesh

EASYDEL_AXES = ("dp", "fsdp", "ep", "tp", "sp")
_NAMES = {"data": "data", "fsdp": "fsdp", "tensor": "tensor", "sequence": "sequence"}
_NAMES |= {"dp": "data", "replica": "data", "tp": "tensor", "model": "tensor", "sp": "sequence", "context": "sequence"}


@dataclass(frozen=True, kw_only=True)
class MeshConfig(metaclass=NamedFields):
    """Sizes whose product is the number of devices. One may be -1: as many as are left. With several slices, it is the
    number of devices of a slice, and each slice has different rows.

    Raises:
        ConfigError: for sizes that are not possible.
    """

    data: int = 1
    """Devices that have different rows, and whole weights."""

    fsdp: int = -1
    """Devices that have different rows, and a slice of each weight and of its optimizer state (fully sharded data
    parallelism, ZeRO 3)."""

    tensor: int = 1
    """Devices that share heads and MLPs."""

    sequence: int = 1
    """Devices that have different positions of the same rows."""

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        check_types(self)
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            require(self, name, size >= 1 or size == -1, "at least 1, or -1")
        if sum(size == -1 for size in sizes.values()) > 1:
            raise ConfigError(f"{self}: expected at most one size of -1")


def mesh_config(given: object) -> MeshConfig:
    """`given` as a `MeshConfig`. It may be one; sizes by name, where "dp", "replica", "tp", "model", "sp" and "context"
    are known too; or EasyDeL's `sharding_axis_dims`, five sizes (dp, fsdp, ep, tp, sp).

    Raises:
        ConfigError: for anything else.
    """
    if isinstance(given, MeshConfig):
        return given
    if isinstance(given, Mapping):
        sizes = {str(_NAMES.get(name, name)): size for name, size in given.items()}
        if set(sizes) <= set(_NAMES.values()) and len(sizes) == len(given):
            absorbs: dict[str, int] = {} if "fsdp" in sizes or -1 not in sizes.values() else {"fsdp": 1}
            return MeshConfig(**{**absorbs, **sizes})
    elif isinstance(given, Sequence) and not isinstance(given, str) and len(given) == len(EASYDEL_AXES):
        dp, fsdp, ep, tp, sp = given
        if ep != 1:
            raise ConfigError(f"mesh = {given!r}: {ep} devices for experts (ep); expected 1: no model here has experts")
        return MeshConfig(data=dp, fsdp=fsdp, tensor=tp, sequence=sp)
    unknown = next((str(name) for name in given if name not in _NAMES), "") if isinstance(given, Mapping) else ""
    raise ConfigError(
        f"mesh = {given!r}: expected a MeshConfig, sizes by name ({', '.join(_NAMES)}), or five sizes "
        f"({', '.join(EASYDEL_AXES)}){did_you_mean(unknown, _NAMES)}"
    )


def on_devices(mesh: MeshConfig, devices: int) -> MeshConfig:
    """`mesh` with the size that it leaves open. devices: of a slice.

    Raises:
        ConfigError: the sizes do not fit so many devices.
    """
    sizes = dataclasses.asdict(mesh)
    given = math.prod(size for size in sizes.values() if size != -1)
    left_open = [name for name, size in sizes.items() if size == -1]
    if devices % given if left_open else devices != given:
        raise ConfigError(f"mesh = {mesh}: expected sizes whose product is {devices}, the devices of a slice")
    return dataclasses.replace(mesh, **dict.fromkeys(left_open, devices // given))


def fitting_mesh(shape: Fields) -> MeshConfig:
    """Where nobody chose one: fsdp over as many devices as can split a model with the config.json `shape`."""
    import jax

    return MeshConfig(data=-1, fsdp=math.gcd(shape["hidden_size"], jax.device_count() // _slices()))


def _slices() -> int:
    import jax

    return len({getattr(device, "slice_index", 0) for device in jax.devices()})


def levanter_mesh(given: object) -> LevanterMesh:
    """Levanter's MeshConfig for an argument of `mesh_config`. None: fsdp over all devices.

    Raises:
        TrainingError: the sizes do not fit the available devices.
    """
    import jax
    from levanter.utils.mesh import MeshConfig as LevanterMesh

    mesh = MeshConfig() if given is None else mesh_config(given)
    try:
        on_devices(mesh, jax.device_count() // _slices())
    except ConfigError as error:
        raise TrainingError(str(error)) from error
    return LevanterMesh(
        axes={"replica": mesh.data, "data": mesh.fsdp, "model": mesh.tensor, "context": mesh.sequence},
        shared_mapping={"mlp": "model", "heads": "model", "kv_head": "model"},
        compute_mapping={"position": "context"},
        param_mapping={"embed": "data"},
    )


def check_rows(sequence: int, length: int) -> None:
    """Raise TrainingError unless so many devices can split the positions of a row."""
    if length % sequence:
        raise TrainingError(f"mesh: sequence = {sequence} does not divide rows of {length} tokens; expected a divisor")


def check_model(shape: Fields, devices: Mapping[str, int]) -> None:
    """Raise TrainingError unless the mesh can split the model with the config.json `shape`.

    devices: the number along each axis of Levanter's mesh.
    """
    heads = shape.get("num_key_value_heads") or shape["num_attention_heads"]
    cuts = {
        "tensor": (devices["model"], {"num_key_value_heads": heads, "intermediate_size": shape["intermediate_size"]}),
        "fsdp": (devices["data"], {"hidden_size": shape["hidden_size"]}),
    }
    for name, (parts, sizes) in cuts.items():
        for field, size in sizes.items():
            if size % parts:
                raise TrainingError(
                    f"mesh: {name} = {parts} does not divide the base model's {field} = {size}; expected a divisor"
                )
