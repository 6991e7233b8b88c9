"""Linear layers with gradients made for CPUs, against the same layers as Haliax multiplies."""

import equinox as eqx
import haliax as hax
import haliax.nn as hnn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax.quantization import DefaultDotGeneralOp, Int8DotGeneralOp

from marin_sft.training.cpu.linear import CpuProduct, with_cpu_gradients

BATCH, POSITION = hax.Axis("batch", 2), hax.Axis("position", 5)
EMBED, MLP, HEADS, SIZE = (hax.Axis(name, size) for name, size in (("embed", 6), ("mlp", 9), ("heads", 2), ("size", 7)))
LAYERS = {
    "wider": (EMBED, MLP),
    "narrower": (MLP, EMBED),
    "to several axes": (EMBED, (HEADS, SIZE)),
    "from several axes": ((HEADS, SIZE), hax.Axis("wide", 20)),
    "from axes in another order": ((SIZE, HEADS), hax.Axis("wide", 20)),
}


def gradients(layer, inputs, factors):
    def loss(both):
        layer, inputs = both
        return hax.sum(layer(inputs).astype(jnp.float32) * factors).scalar()

    return eqx.filter_jit(eqx.filter_value_and_grad(loss))((layer, inputs))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("out_first", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_those_of_haliax(name, out_first, dtype):
    into, out = LAYERS[name]
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    layer = hnn.Linear.init(into, out, key=keys[0], out_first=out_first)
    layer = jax.tree_util.tree_map(lambda array: array.astype(dtype), layer)
    axes = (BATCH, POSITION, *sorted(hax.axis.ensure_tuple(into), key=lambda axis: axis.name))
    inputs = hax.random.normal(keys[1], axes).astype(dtype)
    factors = hax.random.normal(keys[2], (BATCH, POSITION, *hax.axis.ensure_tuple(out)))
    changed = with_cpu_gradients(layer)
    assert isinstance(changed.dot_general, CpuProduct)
    (value, found), (expected_value, expected) = (gradients(each, inputs, factors) for each in (changed, layer))
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == jnp.float32 else {"rtol": 2e-2, "atol": 2e-2}
    np.testing.assert_allclose(value, expected_value, **tolerance)
    arrays, others = (jax.tree_util.tree_leaves(tree) for tree in (found, expected))
    for got, wanted in zip(arrays, others, strict=True):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        np.testing.assert_allclose(*(np.asarray(array, np.float32) for array in (got, wanted)), **tolerance)


def test_frozen_weights_cost_no_gradient():
    layer = with_cpu_gradients(hnn.Linear.init(EMBED, MLP, key=jax.random.PRNGKey(0)))
    inputs = hax.ones((BATCH, POSITION, EMBED))

    def products(loss, of):
        return str(jax.jit(jax.grad(loss)).lower(of).compile().as_text()).count(" dot(")

    of_inputs = products(lambda array: hax.sum(layer(hax.named(array, inputs.axes)) ** 2).scalar(), inputs.array)
    assert of_inputs == 2  # forward, and the gradient of the inputs


def test_layers_that_multiply_in_their_own_way_keep_it():
    layer = hnn.Linear.init(EMBED, MLP, key=jax.random.PRNGKey(0))
    quantized = hnn.Linear.init(EMBED, MLP, key=jax.random.PRNGKey(0), dot_general=Int8DotGeneralOp.init())
    assert isinstance(layer.dot_general, DefaultDotGeneralOp)
    assert with_cpu_gradients([quantized])[0].dot_general is quantized.dot_general
