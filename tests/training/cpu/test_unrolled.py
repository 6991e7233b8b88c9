import equinox as eqx
import haliax as hax
import jax
import numpy as np
import pytest

from marin_sft.training.cpu import unrolled
from marin_sft.training.cpu.unrolled import Unrolled
from marin_sft.training.fakes import pack
from marin_sft.training.loss import LossBatch, loss_arrays, nll
from marin_sft.training.models import levanter_model

DOCUMENTS = [[[5, 9, 12, 7], [30, 31, 8]], [[20, 4, 6, 19, 11, 40, 3]]]


def layers_of(model):
    return model.transformer.layers


def test_the_loss_and_its_gradient_are_those_of_the_loop(base_model):
    model = levanter_model.load_model(base_model)
    arrays = loss_arrays(pack(DOCUMENTS, 8))
    batch = LossBatch(**{name: hax.named(array, ("batch", "position")) for name, array in arrays.items()})
    gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda model: nll(unrolled.unrolled(model), batch)))
    loop = eqx.filter_jit(eqx.filter_value_and_grad(lambda model: nll(model, batch)))
    (value, grads), (expected, others) = gradient(model), loop(model)
    assert isinstance(layers_of(unrolled.unrolled(model)), Unrolled)
    assert float(value) == pytest.approx(float(expected), abs=1e-6)
    for got, wanted in zip(jax.tree_util.tree_leaves(grads), jax.tree_util.tree_leaves(others), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_a_model_that_recomputes_or_is_deep_keeps_its_loop(base_model, monkeypatch):
    recomputing = levanter_model.load_model(base_model, gradient_checkpointing=True)
    assert not isinstance(layers_of(unrolled.unrolled(recomputing)), Unrolled)
    monkeypatch.setattr(unrolled, "MOST_LAYERS", 1)
    assert not isinstance(layers_of(unrolled.unrolled(levanter_model.load_model(base_model))), Unrolled)


def test_what_has_no_layers_axis_goes_to_each_block(base_model):
    """A key for each layer, the mask and positions for all of them."""
    layers = layers_of(unrolled.unrolled(levanter_model.load_model(base_model)))
    positions = hax.arange(hax.Axis("position", 3))
    keys = jax.random.split(jax.random.PRNGKey(0), layers.Block.size)
    first, second = layers._each({"pos_ids": positions, "key": keys, "mask": None})
    assert first["pos_ids"] is second["pos_ids"] is positions and first["mask"] is None
    np.testing.assert_array_equal(np.stack([first["key"], second["key"]]), keys)
