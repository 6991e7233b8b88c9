"""What is recomputed: less of it needs more memory, and the choice by memory is the fastest that fits."""

import math

import equinox as eqx
import haliax as hax
import jax
import numpy as np
import pytest
import transformers

from marin_sft.training.fakes import pack
from marin_sft.training.loss import LossBatch, loss_arrays, nll
from marin_sft.training.models import LlamaConfig, levanter_model, recomputation

LENGTH, ROWS = 256, 4
SHAPE = LlamaConfig(max_seq_len=LENGTH, hidden_dim=128, intermediate_dim=512, num_layers=8, num_heads=4, num_kv_heads=2)
CONFIG = SHAPE.hf_config(vocab_size=64)


SIZES = dict(
    vocab_size=64, hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, head_dim=32,
    num_key_value_heads=2, max_position_embeddings=LENGTH, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
LAYERS = ["sliding_attention", "full_attention"] * 2
ALTERNATING = {
    "gemma2": transformers.Gemma2Config(**SIZES, sliding_window=64, layer_types=LAYERS),
    "gemma3": transformers.Gemma3TextConfig(**SIZES, sliding_window=64, layer_types=LAYERS),
    "olmo3": transformers.Olmo3Config(**SIZES, sliding_window=64, layer_types=LAYERS),
}


def loss_of(config, policy):
    """As a function of the weights, which are returned, too."""
    batch = pack([[[1 + i % 60 for i in range(LENGTH)]]] * ROWS, LENGTH)
    rows = LossBatch(**{name: hax.named(array, ("batch", "position")) for name, array in loss_arrays(batch).items()})
    weights, rest = eqx.partition(levanter_model.abstract_model(config, policy), is_shape)
    return lambda weights: nll(eqx.combine(weights, rest), rows), weights


def is_shape(leaf) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


@pytest.fixture(scope="module")
def compiled():
    """By policy: bytes of temporary memory, and FLOPs. (The compiler counts the body of a loop over layers once.)"""

    def figures(policy):
        loss, weights = loss_of(CONFIG, policy)
        step = jax.jit(jax.value_and_grad(loss)).lower(weights).compile()
        return step.memory_analysis().temp_size_in_bytes, step.cost_analysis()["flops"]

    return {policy: figures(policy) for policy in (True, "save_attention", "save_products", False)}


def saved_of(config, policy) -> int:
    """Bytes that the forward pass keeps for the backward pass."""
    loss, weights = loss_of(config, policy)
    kept = jax.tree_util.tree_leaves(jax.eval_shape(lambda weights: jax.vjp(loss, weights)[1], weights))
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in kept)


@pytest.mark.parametrize("family", ALTERNATING)
def test_layers_that_differ_are_recomputed_too(family):
    config = ALTERNATING[family].to_dict()
    saved = {policy: saved_of(config, policy) for policy in (True, "nested", "save_products", False)}
    assert saved[True] < saved["save_products"] < saved[False]
    assert 2 * saved[True] < saved[False] and saved["nested"] == saved[True]


@pytest.mark.parametrize("policy", [True, "save_products"])
def test_recomputing_layers_that_differ_changes_nothing(policy):
    def result(policy):
        loss, shapes = loss_of(
            {**ALTERNATING["olmo3"].to_dict(), "num_hidden_layers": 2, "layer_types": LAYERS[:2]}, policy
        )
        leaves, structure = jax.tree_util.tree_flatten(shapes)
        draw = np.random.default_rng(0).normal
        weights = [np.asarray(draw(0, 0.1, leaf.shape), np.float32) for leaf in leaves]
        step = jax.jit(jax.value_and_grad(loss))
        return jax.tree_util.tree_leaves(step(jax.tree_util.tree_unflatten(structure, weights)))

    for one, other in zip(result(policy), result(False), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_each_step_needs_more_memory(compiled):
    memory = [bytes_needed for bytes_needed, _ in compiled.values()]
    assert memory == sorted(memory) and memory[-1] > 3 * memory[0]


def test_saved_products_are_not_computed_again(compiled):
    (_, all_again), _, (_, products), (_, nothing) = compiled.values()
    assert products < 1.01 * nothing < 0.9 * all_again


@pytest.mark.parametrize("policy", ["save_products", False])
def test_the_estimate_is_near_what_the_compiler_needs(compiled, policy):
    tokens = LENGTH * ROWS
    needed = compiled[policy][0] - compiled[True][0]

    def fits(limit: float) -> bool:
        found = recomputation.chosen(CONFIG, tokens, itemsize=4, state=0, limit=int(limit))
        return found is False or found == policy

    estimate = next(size for size in range(0, 10 * needed, needed // 20) if fits(size)) * recomputation.USED_AT_MOST
    assert 0.6 < estimate / needed < 1.6


def test_the_state_and_an_unknown_limit():
    sizes = {"config": CONFIG, "tokens": 1024, "itemsize": 4}
    assert recomputation.chosen(**sizes, state=0, limit=2**30) is False
    assert recomputation.chosen(**sizes, state=2**30, limit=2**30) is True
    assert recomputation.chosen(**sizes, state=0, limit=None) is True
