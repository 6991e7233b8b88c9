"""The product of hidden states with the language model's head, by each device for its own positions.

Each device needs all weights of the head, and adds up its part of their gradient: only these two cross devices. Devices
with the same positions, because they share heads and MLPs, divide them among themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import haliax as hax
import jax
from haliax.partitioning import pspec_for_axis
from jax.sharding import PartitionSpec
from levanter.models.lm_model import LmHeadModel

from marin_sft.training.axes import BATCH, POSITION
from marin_sft.training.models.levanter_model import logit_soft_cap
from marin_sft.training.target_logps import Head, TokenLogps, target_logps, weighted_nll


def logps_of_targets(
    model: LmHeadModel,
    tokens: hax.NamedArray,
    hidden: hax.NamedArray,
    is_target: hax.NamedArray,
    *,
    entropy: bool = False,
    log_sum_squares: bool = False,
) -> TokenLogps:
    """Figures [batch, position] of the token after each position, if it is a target.

    `tokens`, `is_target`: axes (batch, position). `hidden`: axes (batch, position, embed).
    """
    head = Head(logit_soft_cap(model), entropy, log_sum_squares)

    def here(own: _Own, *arrays: jax.Array) -> TokenLogps:
        return TokenLogps(*(None if found is None else own.joined(found) for found in target_logps(*arrays, head)))

    return _on_each_device(here, model, tokens, hidden, is_target, pspec_for_axis((BATCH, POSITION)))


def nll_of_targets(
    model: LmHeadModel,
    tokens: hax.NamedArray,
    hidden: hax.NamedArray,
    weight: hax.NamedArray,
    z_loss_weight: float = 0.0,
) -> jax.Array:
    """Scalar, see `weighted_nll`. `weight`: axes (batch, position), above 0 if the token after a position is a target.
    The other arguments: as in `logps_of_targets`."""

    def here(own: _Own, *arrays: jax.Array) -> jax.Array:
        return own.summed(weighted_nll(*arrays, logit_soft_cap(model), z_loss_weight))

    return _on_each_device(here, model, tokens, hidden, weight, PartitionSpec())


class _Own:
    """What a device computes of the positions that it holds.

    sizes: of the axes of the mesh that `compute` is called on. {}: it is called without one.
    spread: the axes over which positions are spread.
    shape: rows and positions that the device holds.
    """

    def __init__(self, sizes: Mapping[str, int], spread: frozenset[str], shape: tuple[int, ...]) -> None:
        others = tuple(name for name in sizes if name not in spread)
        count = math.prod(sizes[name] for name in others)
        if math.prod(shape) % count:  # then each of the devices computes all of them
            others, count = (), 1
        self._others, self._count, self._shape = others, count, shape
        self._summed = tuple(name for name in sizes if name in spread or name in others)

    def part(self, array: jax.Array) -> jax.Array:
        """[n, ...] of [rows, positions, ...]"""
        flat = array.reshape(-1, *array.shape[2:])
        if not self._others:
            return flat
        size = len(flat) // self._count
        return jax.lax.dynamic_slice_in_dim(flat, jax.lax.axis_index(self._others) * size, size)

    def joined(self, part: jax.Array) -> jax.Array:
        """[rows, positions] from `part` [n] of each device."""
        whole = jax.lax.all_gather(part, self._others, tiled=True) if self._others else part
        return whole.reshape(self._shape)

    def summed(self, value: jax.Array) -> jax.Array:
        """The sum over all positions. `value`: of the own part."""
        return jax.lax.psum(value, self._summed) if self._summed else value


def _on_each_device(
    compute: Callable[..., jax.Array | TokenLogps],
    model: LmHeadModel,
    tokens: hax.NamedArray,
    hidden: hax.NamedArray,
    values: hax.NamedArray,
    out: PartitionSpec,
) -> jax.Array | TokenLogps:
    """`compute(own, hidden, weights, next_tokens, values)` with the own part of [batch, position] arrays, flat."""
    by_position = (BATCH, POSITION)
    weights = model.get_lm_head().rearrange((model.Embed, model.Vocab)).array
    arrays = (
        hidden.rearrange((*by_position, model.Embed)).array,
        weights,
        hax.roll(tokens, -1, POSITION).rearrange(by_position).array,
        values.rearrange(by_position).array,
    )
    mesh, spec = jax.sharding.get_abstract_mesh(), pspec_for_axis(by_position)
    sizes = {} if mesh.empty or mesh.size == 1 else dict(mesh.shape)

    def here(hidden: jax.Array, weights: jax.Array, *others: jax.Array) -> jax.Array | TokenLogps:
        own = _Own(sizes, _names(spec), hidden.shape[:2])
        return compute(own, own.part(hidden), weights, *map(own.part, others))

    if not sizes:
        return here(*arrays)
    in_specs = (spec, PartitionSpec(), spec, spec)
    return jax.shard_map(here, in_specs=in_specs, out_specs=out, check_vma=False)(*arrays)


def _names(spec: PartitionSpec) -> frozenset[str]:
    return frozenset(name for part in spec for name in ((part,) if isinstance(part, str) else part or ()))
