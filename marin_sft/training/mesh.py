"""How the devices share the work."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from marin_sft.arguments import NamedFields
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.nearest import did_you_mean
from marin_sft.training.checks import check_types, require, unresolved

EASYDEL_AXES = ("dp", "fsdp", "ep", "tp", "sp")
_NAMES = {"data": "data", "fsdp": "fsdp", "tensor": "tensor", "sequence": "sequence"}
_NAMES |= {"dp": "data", "replica": "data", "tp": "tensor", "model": "tensor", "sp": "sequence", "context": "sequence"}


@dataclass(frozen=True, kw_only=True)
class MeshConfig(metaclass=NamedFields):
    """Sizes whose product is the number of devices (of each slice, where there are several: slices hold different
    rows). One may be -1: as many as are left.

    data: devices that hold different rows and whole weights. fsdp: devices that hold different rows, and a slice of
    each weight and of its optimizer state (fully sharded data parallelism, ZeRO 3). tensor: devices that share heads
    and MLPs. sequence: devices that hold different positions of the same rows.

    Raises:
        ConfigError: for sizes that cannot be.
    """

    data: int = 1
    fsdp: int = -1
    tensor: int = 1
    sequence: int = 1

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        check_types(self)
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            require(self, name, size >= 1 or size == -1, "at least 1, or -1")
        if sum(size == -1 for size in sizes.values()) > 1:
            raise ConfigError(f"{self}: expected at most one size of -1")


def mesh_config(given: Any) -> MeshConfig:
    """A `MeshConfig` from one; from sizes by name, "dp", "replica", "tp", "model", "sp" and "context" understood; or
    from EasyDeL's `sharding_axis_dims`, five sizes (dp, fsdp, ep, tp, sp).

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
            raise ConfigError(f"mesh = {given!r}: {ep} devices for experts (ep), but no model here has any; expected 1")
        return MeshConfig(data=dp, fsdp=fsdp, tensor=tp, sequence=sp)
    unknown = next((str(name) for name in given if name not in _NAMES), "") if isinstance(given, Mapping) else ""
    raise ConfigError(
        f"mesh = {given!r}: expected a MeshConfig, sizes by name ({', '.join(_NAMES)}), or five sizes "
        f"({', '.join(EASYDEL_AXES)}){did_you_mean(unknown, _NAMES)}"
    )


def levanter_mesh(given: Any) -> Any:
    """Levanter's MeshConfig for what `mesh_config` takes; None: fsdp over all devices.

    Raises:
        TrainingError: when the sizes do not fit the devices that there are.
    """
    import jax
    from levanter.utils.mesh import MeshConfig as LevanterMesh

    mesh = MeshConfig() if given is None else mesh_config(given)
    levanter = LevanterMesh(
        axes={"replica": mesh.data, "data": mesh.fsdp, "model": mesh.tensor, "context": mesh.sequence},
        shared_mapping={"mlp": "model", "heads": "model", "kv_head": "model"},
        compute_mapping={"position": "context"},
        param_mapping={"embed": "data"},
    )
    slices = len({getattr(device, "slice_index", 0) for device in jax.devices()})
    try:
        levanter.axis_shapes(jax.device_count(), slices)
    except ValueError as error:
        raise TrainingError(
            f"mesh = {mesh}: the product of the sizes has to be the {jax.device_count() // slices} devices of a slice"
        ) from error
    return levanter


def check_model(shape: Mapping[str, Any], devices: Mapping[str, int]) -> None:
    """Raise TrainingError unless the model of config.json `shape` can be cut as the mesh says.

    `devices`: how many along each axis of Levanter's mesh.
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
