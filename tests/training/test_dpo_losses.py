"""Against formulas written again in float64 without JAX, numbers worked out by hand, and what the papers prove."""

import dataclasses
import itertools
import math

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marin_sft.data.batches.pair_batches import PairBatch
from marin_sft.errors import ConfigError
from marin_sft.training import dpo_losses
from marin_sft.training.completions import completion_arrays
from marin_sft.training.dpo_loss_types import F_DIVERGENCE_TYPES, LOSS_TYPES, LossOptions, loss_weights_of
from marin_sft.training.dpo_losses import implicit_rewards, length_desensitized, weighted_sum, wpo_weights
from marin_sft.training.token_logps import sums_by_completion

LOG_PROBS = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
SMOOTHING = {name: 0.1 if loss.label_smoothing == "needed" else 0.0 for name, loss in LOSS_TYPES.items()}

# Log-ratios a = 2, -3, 1 and r = -6, 2, -1; policy chosen - rejected 4, -11, 0; reference -4, -6, -2.
HAND = dict(
    policy_chosen=np.array([-10.0, -20.0, -6.0]),
    policy_rejected=np.array([-14.0, -9.0, -6.0]),
    ref_chosen=np.array([-12.0, -17.0, -7.0]),
    ref_rejected=np.array([-8.0, -11.0, -5.0]),
    chosen_lengths=np.array([4, 5, 2]),
    rejected_lengths=np.array([2, 3, 1]),
)


OPTIONS = {field.name for field in dataclasses.fields(LossOptions)}


def options_of(loss_type, arguments) -> tuple[LossOptions, dict]:
    """The options among the arguments, and the others."""
    given = {name: value for name, value in arguments.items() if name in OPTIONS}
    options = LossOptions(loss_type=loss_type, **given, use_weighting="pair_weights" in arguments)
    return options, {name: value for name, value in arguments.items() if name not in OPTIONS}


def dpo_loss(loss_type, **arguments):
    options, others = options_of(loss_type, arguments)
    return dpo_losses.dpo_loss(options, **others)


def dpo_loss_parts(loss_type, **arguments):
    options, others = options_of(loss_type, arguments)
    return dpo_losses.dpo_loss_parts(options, **others)


def weighted_dpo_loss(loss_type, **arguments):
    return weighted_sum(options_of(loss_type, arguments)[0], dpo_loss_parts(loss_type, **arguments))


def batch(seed: int, pairs: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {name: -rng.uniform(5, 60, pairs) for name in LOG_PROBS}
    return arrays | {name: rng.integers(1, 30, pairs) for name in ("chosen_lengths", "rejected_lengths")}


def from_log_ratios(chosen, rejected, length: int = 1) -> dict[str, np.ndarray]:
    zeros = np.zeros(len(chosen))
    lengths = np.full(len(chosen), length)
    arrays = (np.asarray(chosen), np.asarray(rejected), zeros, zeros, lengths, lengths)
    return dict(zip((*LOG_PROBS, "chosen_lengths", "rejected_lengths"), arrays, strict=True))


def take(arrays: dict[str, np.ndarray], index) -> dict[str, np.ndarray]:
    return {name: array[index] for name, array in arrays.items()}


def s(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def f_prime(divergence: str, alpha: float, t: float) -> float:
    """The derivative of the divergence's generator f at t, less that at 1, taken numerically."""
    generators = {
        "reverse_kl": lambda t: t * math.log(t),
        "forward_kl": lambda t: -math.log(t),
        "js_divergence": lambda t: t * math.log(t) - (t + 1) * math.log((t + 1) / 2),
        "alpha_divergence": lambda t: (t**alpha - alpha * t + alpha - 1) / (alpha * (alpha - 1)),
    }
    f = generators[divergence]

    def slope(t, h=1e-3):
        return (8 * (f(t + h * t) - f(t - h * t)) - (f(t + 2 * h * t) - f(t - 2 * h * t))) / (12 * h * t)

    return slope(t) - slope(1.0)


def reference(
    loss_type, *, policy_chosen, policy_rejected, ref_chosen, ref_rejected, chosen_lengths, rejected_lengths,
    beta=0.1, label_smoothing=0.0, f_divergence_type="reverse_kl", f_alpha_divergence_coef=0.5,
    discopop_tau=0.05, simpo_gamma=0.5, bco_delta=0.0,
):  # fmt: skip
    """The losses of the pairs, one after the other, in Python's floats."""
    b, e = beta, label_smoothing
    columns = (policy_chosen, policy_rejected, ref_chosen, ref_rejected, chosen_lengths, rejected_lengths)
    rows = [tuple(float(x) for x in row) for row in zip(*columns, strict=True)]
    sorted_ref = sorted(rc - rr for _, _, rc, rr, _, _ in rows)
    sorted_rejected = sorted(pr - rr for _, pr, _, rr, _, _ in rows)

    def rank(value, values):
        return sorted(values).index(value)

    def of(pc, pr, rc, rr, lc, lr):
        a, r = pc - rc, pr - rr
        u, v = a, r
        if f_divergence_type != "reverse_kl":
            u, v = (f_prime(f_divergence_type, f_alpha_divergence_coef, math.exp(x)) for x in (a, r))
        lc, lr = max(lc, 1), max(lr, 1)
        p = s(b * (u - v))  # the probability that the chosen one is preferred, after Bradley and Terry
        match loss_type:
            case "sigmoid":
                return -(1 - e) * math.log(p) - e * math.log(1 - p)
            case "hinge":
                return max(0.0, 1 - b * (u - v))
            case "ipo":
                return (u / lc - v / lr - 1 / (2 * b)) ** 2
            case "exo_pair":
                return p * math.log(p / (1 - e)) + (1 - p) * math.log((1 - p) / e)
            case "nca_pair":
                return -math.log(s(b * a)) - 0.5 * (math.log(s(-b * a)) + math.log(s(-b * r)))
            case "robust":
                return ((1 - e) * -math.log(p) - e * -math.log(1 - p)) / (1 - 2 * e)
            case "bco_pair":
                return -math.log(s(b * a - bco_delta)) - math.log(1 - s(b * r - bco_delta))
            case "sppo_hard":
                return (a - 1 / (2 * b)) ** 2 + (r + 1 / (2 * b)) ** 2
            case "aot":
                x = b * (pc - pr - sorted_ref[rank(pc - pr, [row[0] - row[1] for row in rows])])
                return -(1 - e) * math.log(s(x)) - e * math.log(s(-x))
            case "aot_unpaired":
                x = b * (a - sorted_rejected[rank(a, [row[0] - row[2] for row in rows])])
                return -(1 - e) * math.log(s(x)) - e * math.log(s(-x))
            case "apo_zero":
                return 1 - s(b * a) + s(b * r)
            case "apo_down":
                return s(b * a) + 1 - s(b * (a - r))
            case "discopop":
                x = b * (u - v)
                return math.log(1 + math.exp(-x)) * (1 - s(x / discopop_tau)) + math.exp(-x) * s(x / discopop_tau)
            case "sft":
                return -pc / lc
            case "sigmoid_norm":
                x = b * (u / lc - v / lr)
                return -(1 - e) * math.log(s(x)) - e * math.log(s(-x))
            case "simpo":
                x = b * (pc / lc - pr / lr) - simpo_gamma
                return -(1 - e) * math.log(s(x)) - e * math.log(s(-x))

    return np.array([of(*row) for row in rows])


@pytest.mark.parametrize(
    ("loss_type", "label_smoothing", "expected"),
    [
        ("sigmoid", 0.0, [0.37110067, 0.97407698, 0.59813887]),
        ("sigmoid", 0.1, [0.45110067, 0.92407698, 0.61813887]),
        ("hinge", 0.0, [0.2, 1.5, 0.8]),
        ("ipo", 0.0, [2.25, 39.271111, 12.25]),
        ("exo_pair", 0.1, [0.16743512, 0.81019614, 0.40630425]),
        ("nca_pair", 0.0, [1.2159523, 1.5306023, 1.3387933]),
        ("robust", 0.1, [0.27110067, 1.036577, 0.57313887]),
        ("bco_pair", 0.0, [1.0356269, 1.6524941, 1.2887934]),
        ("sppo_hard", 0.0, [10.0, 113.0, 32.0]),
        ("aot", 0.0, [0.43748795, 0.97407698, 0.51301525]),  # of 6, -5, 4 times beta
        ("aot_unpaired", 0.0, [0.69314718, 0.55435524, 0.59813887]),  # of 0, 3, 2 times beta
        ("apo_zero", 0.0, [0.8045097, 1.1242765, 0.95004163]),
        ("apo_down", 0.0, [0.85985952, 1.0480168, 0.97514519]),
        ("discopop", 0.0, [0.44932896, 0.97410761, 0.81476314]),
        ("sft", 0.0, [2.5, 4.0, 3.0]),
        ("sigmoid_norm", 0.0, [0.53338216, 0.75848473, 0.62095705]),
        ("simpo", 0.0, [0.71845965, 1.037488, 0.79813887]),
    ],
)
def test_numbers_worked_out_by_hand(loss_type, label_smoothing, expected):
    losses = dpo_loss(loss_type, **HAND, beta=0.1, label_smoothing=label_smoothing)
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, expected, rtol=2e-6)


def cases():
    for name, loss in LOSS_TYPES.items():
        for smoothing in sorted({SMOOTHING[name], 0.0 if loss.label_smoothing == "no" else 0.2}):
            yield name, smoothing, "reverse_kl"
        if loss.f_divergence:
            yield from ((name, SMOOTHING[name], kind) for kind in F_DIVERGENCE_TYPES[1:])


@pytest.mark.parametrize(("loss_type", "label_smoothing", "f_divergence_type"), cases())
def test_values_and_gradients_are_those_of_the_formula(loss_type, label_smoothing, f_divergence_type):
    options = dict(beta=0.3, label_smoothing=label_smoothing, f_divergence_type=f_divergence_type, bco_delta=0.7)
    arrays = batch(seed=1)
    if f_divergence_type != "reverse_kl":  # keeps exp(log-ratio) where the numerical derivative of f is good
        arrays |= {name: arrays[name] / 20 for name in LOG_PROBS}

    def losses(log_probs):
        return dpo_loss(loss_type, **(arrays | log_probs), **options)

    log_probs = {name: arrays[name] for name in LOG_PROBS}
    np.testing.assert_allclose(losses(log_probs), reference(loss_type, **arrays, **options), rtol=1e-4, atol=1e-5)
    gradients = jax.jit(jax.grad(lambda log_probs: losses(log_probs).sum()))(log_probs)
    for name, pair in itertools.product(("policy_chosen", "policy_rejected"), range(6)):
        step = 1e-3 * (np.arange(6) == pair)
        up, down = (reference(loss_type, **(arrays | {name: arrays[name] + by}), **options) for by in (step, -step))
        assert gradients[name][pair] == pytest.approx((up - down).sum() / 2e-3, rel=2e-3, abs=2e-4)


def test_the_names_are_those_of_trl_and_simpo():
    trl = """sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down discopop
        sft sigmoid_norm"""
    assert set(LOSS_TYPES) == {*trl.split(), "simpo"}
    older = dpo_loss("aot_pair", **batch(0))
    np.testing.assert_array_equal(older, dpo_loss("aot_unpaired", **batch(0)))


def test_every_loss_is_another_function():
    smoothing = {name: 0.0 if loss.label_smoothing == "no" else 0.1 for name, loss in LOSS_TYPES.items()}
    totals = [float(dpo_loss(name, **batch(0), label_smoothing=smoothing[name]).sum()) for name in LOSS_TYPES]
    assert len({round(total, 3) for total in totals}) == len(LOSS_TYPES)


def test_before_the_first_step_rewards_are_0_and_the_loss_is_ln_2():
    arrays = batch(0) | {"ref_chosen": batch(0)["policy_chosen"], "ref_rejected": batch(0)["policy_rejected"]}
    for policy, ref in (LOG_PROBS[::2], LOG_PROBS[1::2]):
        assert not implicit_rewards(arrays[policy], arrays[ref], 0.1).any()
    for f_divergence_type in F_DIVERGENCE_TYPES:
        for name in ("sigmoid", "sigmoid_norm"):
            losses = dpo_loss(name, **arrays, f_divergence_type=f_divergence_type)
            np.testing.assert_allclose(losses, math.log(2), atol=1e-7)
    np.testing.assert_allclose(dpo_loss("aot_unpaired", **arrays), math.log(2), atol=1e-7)


def test_rewards():
    rewards = implicit_rewards(HAND["policy_chosen"], HAND["ref_chosen"], 0.1)
    np.testing.assert_allclose(rewards, [0.2, -0.3, 0.1], rtol=1e-6)


# Properties.

small = st.floats(-40, 40, width=32)
three = st.lists(small, min_size=3, max_size=3).map(np.array)


@settings(deadline=None, max_examples=50)
@given(three, three, st.floats(0.0625, 8))
def test_a_better_margin_is_never_a_greater_loss(chosen, rejected, gain):
    for name in ("sigmoid", "hinge", "robust", "sigmoid_norm", "aot", "aot_unpaired", "apo_zero", "simpo"):
        # Sorted: which of two pairs comes first, where rounding makes them equal, is not the loss's business.
        now, better = (np.sort(dpo_loss(name, **from_log_ratios(chosen + by, rejected))) for by in (0, gain))
        assert (better <= now + 1e-6).all()
        now, better = (np.sort(dpo_loss(name, **from_log_ratios(chosen, rejected - by))) for by in (0, gain))
        assert (better <= now + 1e-6).all()


@settings(deadline=None, max_examples=50)
@given(three, three, st.sampled_from([0.0, 0.1, 0.3]))
def test_exchanging_chosen_and_rejected(chosen, rejected, smoothing):
    there, back = from_log_ratios(chosen, rejected), from_log_ratios(rejected, chosen)
    margin = 0.1 * (chosen - rejected)
    cdpo = [dpo_loss("sigmoid", **pairs, label_smoothing=smoothing) for pairs in (there, back)]
    np.testing.assert_allclose(cdpo[0] - cdpo[1], -(1 - 2 * smoothing) * margin, atol=1e-4)
    # What robust DPO is for: its mean over labels flipped at that rate is the loss of clean labels.
    robust = [dpo_loss("robust", **pairs, label_smoothing=smoothing) for pairs in (there, back)]
    clean = dpo_loss("sigmoid", **there)
    np.testing.assert_allclose((1 - smoothing) * robust[0] + smoothing * robust[1], clean, atol=1e-4)


@settings(deadline=None, max_examples=50)
@given(three, three, st.sampled_from([0.5, 2.0, 8.0]))
def test_only_the_product_of_beta_and_log_ratio_counts(chosen, rejected, scale):
    for name in set(LOSS_TYPES) - {"ipo", "sppo_hard", "sft"}:
        scaled, plain = (
            dpo_loss(
                name, **from_log_ratios(chosen * by, rejected * by), beta=0.5 / by, label_smoothing=SMOOTHING[name]
            )
            for by in (scale, 1)
        )
        np.testing.assert_allclose(scaled, plain, rtol=1e-4, atol=1e-5)


def test_where_the_regressing_losses_are_least():
    beta, smoothing = 0.1, 0.1
    assert dpo_loss("ipo", **from_log_ratios([40.0], [20.0], length=4), beta=beta) == 0  # 1 / 2b nats per token apart
    assert dpo_loss("sppo_hard", **from_log_ratios([5.0], [-5.0]), beta=beta) == 0
    exact = math.log((1 - smoothing) / smoothing) / beta  # then the policy prefers just as often as the label says
    for offset, least in ((0, True), (3, False), (-3, False)):
        loss = dpo_loss("exo_pair", **from_log_ratios([exact + offset], [0.0]), label_smoothing=smoothing)
        assert (abs(float(loss[0])) < 1e-6) == least


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6))
def test_aot_is_the_cheapest_matching(seed):
    # The convex cost -log sigmoid(b (x - y)) over all ways to match the chosen with the rejected.
    arrays = batch(seed, pairs=4)
    a = 0.1 * (arrays["policy_chosen"] - arrays["ref_chosen"])
    r = 0.1 * (arrays["policy_rejected"] - arrays["ref_rejected"])
    cheapest = min(np.logaddexp(0, r[list(order)] - a).sum() for order in itertools.permutations(range(4)))
    assert dpo_loss("aot_unpaired", **arrays).sum() == pytest.approx(cheapest, rel=1e-5)
    for name in ("aot", "aot_unpaired"):
        single = [dpo_loss(name, **take(arrays, slice(i, i + 1)))[0] for i in range(4)]
        np.testing.assert_allclose(single, dpo_loss("sigmoid", **arrays), rtol=1e-5, atol=1e-6)


# Hard input.


@pytest.mark.parametrize(("loss_type", "label_smoothing", "f_divergence_type"), cases())
def test_finite_for_any_margin_and_for_empty_completions(loss_type, label_smoothing, f_divergence_type):
    extremes = np.array(list(itertools.product([-1e5, -30.0, 0.0, 1e5], repeat=2)))  # rewards of 1e4 with beta 0.1
    arrays = from_log_ratios(extremes[:, 0], extremes[:, 1])
    arrays["chosen_lengths"] = arrays["chosen_lengths"] * 0
    arrays["rejected_lengths"][::2] = 0
    losses, pullback = jax.vjp(
        lambda chosen, rejected: dpo_loss(
            loss_type,
            **(arrays | {"policy_chosen": chosen, "policy_rejected": rejected}),
            label_smoothing=label_smoothing,
            f_divergence_type=f_divergence_type,
        ),
        jnp.float32(arrays["policy_chosen"]),
        jnp.float32(arrays["policy_rejected"]),
    )
    assert np.isfinite(losses).all()
    for gradient in pullback(jnp.ones_like(losses)):
        assert np.isfinite(gradient).all()
    if loss_type in ("sigmoid", "hinge") and f_divergence_type != "js_divergence":  # which is bounded above
        hopeless = (extremes == [-1e5, 1e5]).all(1)
        assert pullback(jnp.float32(hopeless))[0][hopeless] < 0  # and the gradient still says where to go


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_padding_pairs_change_nothing_whatever_they_hold(loss_type):
    valid = np.array([True, False, True, True, False, True])
    padded = batch(3)
    alone = take(padded, valid)
    for name in LOG_PROBS:
        padded[name][~valid] = np.nan

    def total(log_probs, arrays, valid):
        return dpo_loss(loss_type, **(arrays | log_probs), valid=valid, label_smoothing=SMOOTHING[loss_type]).sum()

    (one, gradients), (other, gradients_alone) = (
        jax.value_and_grad(total)({name: arrays[name] for name in LOG_PROBS}, arrays, mask)
        for arrays, mask in ((padded, valid), (alone, None))
    )
    assert one == pytest.approx(float(other), rel=1e-6)
    for name in LOG_PROBS:
        assert not gradients[name][~valid].any()
        np.testing.assert_allclose(gradients[name][valid], gradients_alone[name], rtol=1e-5, atol=1e-7)


def test_identical_pairs_and_low_precision():
    arrays = {name: jnp.asarray(np.repeat(array[:1], 3), jnp.bfloat16) for name, array in batch(0).items()}
    for name in LOSS_TYPES:
        losses = dpo_loss(name, **arrays, label_smoothing=SMOOTHING[name])
        assert losses.dtype == jnp.float32 and np.ptp(losses) == 0


@pytest.mark.parametrize(
    ("loss_type", "options", "message"),
    [
        ("sigmiod", {}, "loss_type='sigmiod'.*'hinge'.*did you mean 'sigmoid'"),
        ("sigmoid", {"beta": 0.0}, "beta=0.0"),
        ("ipo", {"beta": math.nan}, "beta=nan"),
        ("robust", {"label_smoothing": 0.5}, "label_smoothing=0.5.*below 0.5"),
        ("sigmoid", {"label_smoothing": -0.1}, "label_smoothing=-0.1"),
        ("exo_pair", {}, "label_smoothing=0.0.*above 0.*1e-3"),
        ("hinge", {"label_smoothing": 0.1}, "'hinge'.*cannot use"),
        ("sigmoid", {"f_divergence_type": "js_divergance"}, "did you mean 'js_divergence'"),
        ("apo_zero", {"f_divergence_type": "forward_kl"}, "reverse_kl, or losses among"),
        ("sigmoid", {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": math.inf}, "f_alpha"),
        ("discopop", {"discopop_tau": 0.0}, "discopop_tau=0.0"),
        ("simpo", {"simpo_gamma": -1.0}, "simpo_gamma=-1.0"),
    ],
)
def test_what_a_loss_cannot_use_is_refused(loss_type, options, message):
    with pytest.raises(ConfigError, match=message):
        dpo_loss(loss_type, **HAND, **options)


def test_arrays_that_would_be_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"'ref_chosen': \(1,\)"):
        dpo_loss("sigmoid", **(HAND | {"ref_chosen": HAND["ref_chosen"][:1]}))


# Sums of losses.

MPO = {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}


def test_a_sum_of_losses_takes_means_of_pairs_and_of_tokens():
    sigmoid = reference("sigmoid", **HAND, label_smoothing=0.1).mean()
    bco, sft = reference("bco_pair", **HAND).mean(), (10 + 20 + 6) / (4 + 5 + 2)
    parts = dpo_loss_parts(MPO, **HAND, label_smoothing=0.1)
    assert {name: float(part) for name, part in parts.items()} == pytest.approx(
        {"sigmoid": sigmoid, "bco_pair": bco, "sft": sft}, rel=1e-6
    )
    total = weighted_dpo_loss(MPO, **HAND, label_smoothing=0.1)
    assert float(total) == pytest.approx(0.8 * sigmoid + 0.2 * bco + sft, rel=1e-6)
    rpo = weighted_dpo_loss(["sigmoid", "sft"], **HAND, label_smoothing=0.1)
    assert float(rpo) == pytest.approx(sigmoid + sft, rel=1e-6)
    one = weighted_dpo_loss("sigmoid", **HAND, label_smoothing=0.1)
    assert float(one) == pytest.approx(sigmoid, rel=1e-6)
    assert set(dpo_loss_parts({"sigmoid": 1, "sft": 0}, **HAND)) == {"sigmoid"}
    plain = dpo_loss_parts(MPO, **HAND, label_smoothing=0.1, sft_chosen=HAND["policy_chosen"] * 2)
    assert {name: float(part) for name, part in plain.items()} == pytest.approx(
        {"sigmoid": sigmoid, "bco_pair": bco, "sft": 2 * sft}, rel=1e-6
    )


def test_spellings_of_a_sum():
    assert loss_weights_of("hinge") == {"hinge": 1.0}
    assert loss_weights_of(["sigmoid", "aot_pair"]) == {"sigmoid": 1.0, "aot_unpaired": 1.0}
    assert loss_weights_of(list(MPO), [0.8, 0.2, 1]) == loss_weights_of(MPO) == MPO
    for loss_types, loss_weights in ((["sigmoid"], [1, 2]), (MPO, [1, 1, 1])):
        with pytest.raises(ConfigError, match="loss_weights"):
            loss_weights_of(loss_types, loss_weights)


@pytest.mark.parametrize("loss_type", sorted(set(LOSS_TYPES) - {"aot", "aot_unpaired"}))
def test_micro_batches_add_up(loss_type):
    arrays = batch(4, pairs=8)
    valid = np.arange(8) != 5
    totals = dict(total_pairs=7, total_chosen_tokens=arrays["chosen_lengths"][valid].sum(), bco_delta=0.3)

    def total(log_probs, cut):
        return weighted_dpo_loss(
            {loss_type: 0.7, "sft": 0.1} if loss_type != "sft" else "sft",
            **(take(arrays, cut) | take(log_probs, cut)),
            valid=valid[cut],
            label_smoothing=SMOOTHING[loss_type],
            **totals,
        )

    log_probs = {name: jnp.float32(arrays[name]) for name in LOG_PROBS}
    whole, whole_gradient = jax.value_and_grad(total)(log_probs, slice(None))
    for size in (1, 3, 4):
        cuts = [slice(start, start + size) for start in range(0, 8, size)]
        losses, gradients = zip(*(jax.value_and_grad(total)(log_probs, cut) for cut in cuts), strict=True)
        assert sum(losses) == pytest.approx(float(whole), rel=1e-5)
        for name in LOG_PROBS:
            summed = sum(gradient[name] for gradient in gradients)
            np.testing.assert_allclose(summed, whole_gradient[name], rtol=1e-5, atol=1e-7)


def test_a_batch_of_padding_alone_is_0():
    nothing = np.zeros(3, bool)
    loss, gradient = jax.value_and_grad(
        lambda chosen: weighted_dpo_loss(MPO, **(HAND | {"policy_chosen": chosen}), valid=nothing)
    )(HAND["policy_chosen"])
    assert loss == 0 and not gradient.any()


@pytest.mark.parametrize(
    ("loss_types", "options", "message"),
    [
        ({}, {}, "one above 0"),
        ({"sigmoid": -1.0}, {}, "weights >= 0"),
        ({"sigmoid": 0.0}, {}, "one above 0"),
        (["sigmoid", "sigmoid"], {}, "each loss once"),
        (["aot_pair", "aot_unpaired"], {}, "each loss once"),
        (["hinge", "sft"], {"label_smoothing": 0.1}, "cannot use"),
        (["sigmoid", "aot"], {"pair_weights": np.ones(3)}, "'aot'.*sort"),
        ({"sigmoid": 1.0, "nca_pair": 1.0}, {"f_divergence_type": "forward_kl"}, "reverse_kl"),
    ],
)
def test_sums_that_make_no_sense_are_refused(loss_types, options, message):
    with pytest.raises(ConfigError, match=message):
        weighted_dpo_loss(loss_types, **HAND, **options)


# What goes with some of the losses.


def test_wpo_weighs_pairs_by_how_likely_the_policy_finds_them():
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]])  # at three positions
    sums = np.log((probabilities**2).sum(1)).sum()
    expected, log_probs = [], []
    for tokens in ((0, 2, 1), (1, 0, 0)):  # the completion in question, and a less likely one
        chosen = np.array([probabilities[i, token] for i, token in enumerate(tokens)])
        expected.append(math.prod(chosen / (probabilities**2).sum(1)) ** (1 / 3))
        log_probs.append(np.log(chosen).sum())
    arguments = dict(
        policy_chosen=np.array(log_probs),
        policy_rejected=np.array([log_probs[1], 0.0]),
        chosen_log_sum_squares=np.array([sums, sums]),
        rejected_log_sum_squares=np.array([sums, 0.0]),
        chosen_lengths=np.array([3, 3]),
        rejected_lengths=np.array([3, 0]),
    )
    weights = wpo_weights(**arguments)
    np.testing.assert_allclose(weights, [expected[0] * expected[1], expected[1]], rtol=1e-6)
    gradient = jax.grad(lambda chosen: wpo_weights(**(arguments | {"policy_chosen": chosen})).sum())(
        arguments["policy_chosen"]
    )
    assert not gradient.any()
    pair_weights = np.array([0.5, 2.0, 1.0])
    loss = weighted_dpo_loss(["sigmoid", "sft"], **HAND, pair_weights=pair_weights)
    expected_loss = (pair_weights * reference("sigmoid", **HAND)).mean() + 36 / 11
    assert float(loss) == pytest.approx(expected_loss, rel=1e-6)


def test_length_desensitized_log_probs():
    # Packed in one row: two tokens of prompt, a chosen completion of four, a rejected one of two, padding.
    token_logps = np.array([[0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, 0.0]])
    completion = np.array([[[-1, -1, 0, 0, 0, 0, 1, 1, -1]]], np.int32)
    rows, lengths = np.zeros_like(completion), np.array([[4, 2]], np.int32)
    pair = PairBatch(rows, rows, rows, completion, lengths, np.zeros((1, 1, 2), np.int64))
    tail = completion_arrays(pair)["tail"][0]
    which = hax.named(jnp.asarray(completion[0]), ("batch", "position"))
    logps, tails = (sums_by_completion(values, which, 2) for values in (token_logps, token_logps * tail))
    np.testing.assert_array_equal(length_desensitized(logps, tails, 0.5), [-1 - 2 - 1.5 - 2, -5 - 6])
    for plain in (1.0, None):
        np.testing.assert_array_equal(length_desensitized(logps, tails, plain), [-1 - 2 - 3 - 4, -5 - 6])
    for ld_alpha in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match="ld_alpha"):
            LossOptions(ld_alpha=ld_alpha).check_losses()
