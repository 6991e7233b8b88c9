"""What is recomputed: less of it needs more memory, and the choice by memory is the fastest that fits."""

import equinox as eqx
import haliax as hax
import jax
import pytest

from marin_sft.training.fakes import pack
from marin_sft.training.loss import LossBatch, loss_arrays, nll
from marin_sft.training.models import LlamaConfig, recomputation
from marin_sft.training.models.architectures import levanter_config

LENGTH, ROWS = 256, 4
SHAPE = LlamaConfig(max_seq_len=LENGTH, hidden_dim=128, intermediate_dim=512, num_layers=8, num_heads=4, num_kv_heads=2)
CONFIG = SHAPE.hf_config(vocab_size=64)


@pytest.fixture(scope="module")
def compiled():
    """By policy: bytes of temporary memory, and FLOPs. (The compiler counts the body of a loop over layers once.)"""
    batch = pack([[[1 + i % 60 for i in range(LENGTH)]]] * ROWS, LENGTH)
    rows = LossBatch(**{name: hax.named(array, ("batch", "position")) for name, array in loss_arrays(batch).items()})

    def figures(policy):
        build = levanter_config(CONFIG, policy).build
        model = hax.named_jit(build)(hax.Axis("vocab", 64), key=jax.random.PRNGKey(0))
        step = eqx.filter_jit(eqx.filter_value_and_grad(lambda model: nll(model, rows))).lower(model).compile().compiled
        return step.memory_analysis().temp_size_in_bytes, step.cost_analysis()["flops"]

    return {policy: figures(policy) for policy in (True, "save_attention", "save_products", False)}


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
