"""Figures of targets, gathered and block by block, against those of all positions at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marin_sft.training import target_logps as module
from marin_sft.training.target_logps import Head, TokenLogps, target_logps, weighted_nll

EMBED, VOCAB = 6, 40
SHARES = {"none": 0.0, "few": 0.02, "half": 0.5, "all": 1.0}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "_places_at_once", lambda vocab: 16)


def inputs(share: float, positions: int = 140, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(positions, EMBED)), dtype)
    weights = jnp.asarray(rng.normal(size=(EMBED, VOCAB)), dtype)
    tokens = jnp.asarray(rng.integers(0, VOCAB, positions))
    is_target = jnp.asarray(rng.random(positions) < share)
    return hidden, weights, tokens, is_target


def plain(hidden, weights, tokens, is_target, head: Head) -> TokenLogps:
    logits = jnp.einsum("pe,ev->pv", hidden, weights, preferred_element_type=jnp.float32)
    if head.soft_cap is not None:
        logits = head.soft_cap * jnp.tanh(logits / head.soft_cap)
    logp = jax.nn.log_softmax(logits)
    of_tokens = jnp.take_along_axis(logp, tokens[..., None], -1)[..., 0]
    entropy, squares = -(jnp.exp(logp) * logp).sum(-1), jax.nn.logsumexp(2 * logp, axis=-1)
    return TokenLogps(*(jnp.where(is_target, figure, 0.0) for figure in (of_tokens, entropy, squares)))


@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("share", SHARES)
def test_figures_are_those_of_all_positions_at_once(share, soft_cap):
    head = Head(soft_cap, entropy=True, log_sum_squares=True)
    got, expected = target_logps(*inputs(SHARES[share]), head), plain(*inputs(SHARES[share]), head)
    for figure, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(figure, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("share", SHARES)
def test_gradients_are_those_of_all_positions_at_once(share, soft_cap):
    hidden, weights, tokens, is_target = inputs(SHARES[share])
    factors = jnp.asarray(np.random.default_rng(1).normal(size=tokens.shape), jnp.float32)

    def gradients(function):
        def loss(hidden, weights):
            return (factors * jnp.square(function(hidden, weights, tokens, is_target, Head(soft_cap)).logp)).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1)))(hidden, weights)

    for got, expected in zip(gradients(target_logps), gradients(plain), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("z_loss_weight", [0.0, 0.1])
@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("share", SHARES)
def test_weighted_nll_and_its_gradients_are_those_of_all_positions_at_once(share, soft_cap, z_loss_weight):
    hidden, weights, tokens, is_target = inputs(SHARES[share])
    factors = np.random.default_rng(1).random(tokens.shape) + 0.1
    weight = jnp.asarray(np.where(is_target, factors, 0), jnp.float32)

    def dense(hidden, weights):
        logits = jnp.einsum("pe,ev->pv", hidden, weights)
        if soft_cap is not None:
            logits = soft_cap * jnp.tanh(logits / soft_cap)
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], -1)[..., 0]
        return (weight * (z_loss_weight * jax.nn.logsumexp(logits, axis=-1) ** 2 - logp)).sum()

    def ours(hidden, weights):
        return weighted_nll(hidden, weights, tokens, weight, soft_cap, z_loss_weight)

    np.testing.assert_allclose(ours(hidden, weights), dense(hidden, weights), rtol=1e-5)
    got, expected = (
        jax.jit(jax.grad(lambda *given, f=f: 3 * f(*given), argnums=(0, 1)))(hidden, weights) for f in (ours, dense)
    )
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_what_is_not_asked_for_is_not_there():
    found = target_logps(*inputs(0.5), Head())
    assert found.entropy is None and found.log_sum_squares is None
    assert target_logps(*inputs(0.5), Head(log_sum_squares=True)).log_sum_squares is not None


def test_half_precision_adds_up_in_float32():
    """Weights' gradients are sums over all targets, of which bfloat16 would lose the small ones."""

    def gradient(dtype):
        hidden, weights, tokens, is_target = inputs(1.0, positions=4096, dtype=dtype)
        found = jax.grad(lambda w: target_logps(hidden, w, tokens, is_target, Head()).logp.sum())(weights)
        return np.asarray(found, np.float32)

    exact, rounded = gradient(jnp.float32), gradient(jnp.bfloat16)
    assert gradient(jnp.bfloat16).dtype == np.float32 and np.abs(exact).max() > 100
    np.testing.assert_allclose(rounded, exact, atol=0.02 * np.abs(exact).max())
