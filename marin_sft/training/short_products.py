"""Products of matrices of 16-bit numbers that are compiled for CPUs, but never run.

A CPU's program first makes 32-bit copies of such matrices, an accelerator's does not. Integers are not copied, so these
products are compiled as if the numbers were integers. What they take in memory is then as on an accelerator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
from jax.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

if TYPE_CHECKING:
    from jaxlib.mlir.ir import Value


def use_them() -> None:
    """From now on, in this process, which can compute nothing with 16-bit numbers any more."""
    mlir.register_lowering(jax.lax.dot_general_p, _lower, platform="cpu")


def _lower(ctx: Any, lhs: Value, rhs: Value, *, dimension_numbers: Any, **_: object) -> list[Value]:
    (contracting, batch), (out,) = dimension_numbers, ctx.avals_out
    dims = stablehlo.DotDimensionNumbers.get(
        lhs_batching_dimensions=list(batch[0]),
        rhs_batching_dimensions=list(batch[1]),
        lhs_contracting_dimensions=list(contracting[0]),
        rhs_contracting_dimensions=list(contracting[1]),
    )
    element = ir.RankedTensorType(lhs.type).element_type
    found = element if out.dtype == ctx.avals_in[0].dtype else ir.F32Type.get()
    short = all(aval.dtype.itemsize == 2 for aval in ctx.avals_in)
    if short:
        lhs, rhs = _as_integers(lhs), _as_integers(rhs)
    kind = ir.IntegerType.get_signless(8 * out.dtype.itemsize) if short else found
    product = stablehlo.dot_general(ir.RankedTensorType.get(out.shape, kind), lhs, rhs, dims)
    return [stablehlo.bitcast_convert(ir.RankedTensorType.get(out.shape, found), product) if short else product]


def _as_integers(value: Value) -> Value:
    shape = ir.RankedTensorType(value.type).shape
    return stablehlo.bitcast_convert(ir.RankedTensorType.get(shape, ir.IntegerType.get_signless(16)), value)
