"""The formula of each loss of preference optimisation. Call them through `dpo_losses`.

For each pair, with log-probabilities (natural log) summed over the tokens of a completion: a and r are the log-ratios
log(policy / reference) of the chosen and of the rejected completion, D = a - r, b = beta, e = label_smoothing,
s = sigmoid, ls = log s, Lc and Lr the lengths in tokens, at least 1, and H(x) = -(1 - e) ls(x) - e ls(-x).

    sigmoid       H(b D)                                                      DPO 2305.18290; with e > 0: cDPO
    hinge         max(0, 1 - b D)                                             SLiC-HF 2305.10425, RSO 2309.06657
    ipo           (a / Lc - r / Lr - 1 / 2b)^2                                IPO 2310.12036, eq. 17, per token
    exo_pair      s(b D) (ls(b D) - log(1 - e)) + s(-b D) (ls(-b D) - log e)  EXO 2402.00856, eq. 16
    nca_pair      -ls(b a) - ls(-b a) / 2 - ls(-b r) / 2                      NCA 2402.05369
    robust        (-(1 - e) ls(b D) + e ls(-b D)) / (1 - 2e)                  robust DPO 2403.00409
    bco_pair      -ls(b a - d) - ls(d - b r), d = `bco_delta`                 BCO 2404.04656
    sppo_hard     (a - 1 / 2b)^2 + (r + 1 / 2b)^2                             SPPO 2405.00675
    aot           H(b x), x: the policy's log(chosen / rejected)              AOT 2406.05882
                  minus the reference's of the same rank in the batch
    aot_unpaired  H(b x), x: a minus the r of the same rank in the batch      AOT
    apo_zero      s(-b a) + s(b r)                                            APO 2408.06266, eq. 7
    apo_down      s(b a) + s(-b D)                                            APO, eq. 8
    discopop      -ls(x) (1 - s(x / tau)) + exp(-x) s(x / tau), x = b D       DiscoPOP 2406.08414, eq. 5
    sft           -log policy(chosen) / Lc
    sigmoid_norm  H(b (a / Lc - r / Lr))                                      Tulu 3 2411.15124
    simpo         H(b (log policy(chosen) / Lc                                SimPO 2405.14734
                       - log policy(rejected) / Lr) - gamma)

Numbers are arXiv ids. In BCO, d is a running mean of the rewards; here it is a constant, and 0 gives TRL 1.16's loss.
Two differences from TRL 1.16: there, `sigmoid` and `sigmoid_norm` ignore smoothing, and `simpo` is a loss of its CPO
trainer. With another f-divergence (f-DPO, 2309.16240), a and r are
f'(ratio) - f'(1) instead of log(ratio), in the losses that allow it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from marin_sft.training.dpo_loss_types import LossOptions

# Above this, exp continues as a straight line: results stay finite in float32, even squared, and keep their order.
_EXP_LIMIT = 30.0


@dataclass(frozen=True)
class Pairs:
    """A batch of pairs, as in `dpo_losses.dpo_loss`, and the options of their loss. Arrays are [pairs].

    Log-probabilities are float32, and 0 for pairs that are not `valid`.
    """

    policy_chosen: jax.Array
    policy_rejected: jax.Array
    ref_chosen: jax.Array
    ref_rejected: jax.Array
    chosen_lengths: jax.Array
    rejected_lengths: jax.Array
    valid: jax.Array
    options: LossOptions

    @property
    def beta(self) -> float:
        return self.options.beta

    @property
    def chosen_reward(self) -> jax.Array:
        return self.beta * (self.policy_chosen - self.ref_chosen)

    @property
    def rejected_reward(self) -> jax.Array:
        return self.beta * (self.policy_rejected - self.ref_rejected)

    @property
    def chosen_score(self) -> jax.Array:
        return self._score(self.policy_chosen - self.ref_chosen)

    @property
    def rejected_score(self) -> jax.Array:
        return self._score(self.policy_rejected - self.ref_rejected)

    @property
    def margin(self) -> jax.Array:
        return self.beta * (self.chosen_score - self.rejected_score)

    def difference_per_token(self, chosen: jax.Array, rejected: jax.Array) -> jax.Array:
        return chosen / at_least_one(self.chosen_lengths) - rejected / at_least_one(self.rejected_lengths)

    def smoothed(self, logit: jax.Array) -> jax.Array:
        """Cross-entropy of sigmoid(logit) with the label 1, flipped with probability `label_smoothing`."""
        smoothing = self.options.label_smoothing
        return -(1 - smoothing) * jax.nn.log_sigmoid(logit) - smoothing * jax.nn.log_sigmoid(-logit)

    def rank_margin(self, ours: jax.Array, others: jax.Array) -> jax.Array:
        """Each of `ours` minus the one in `others` with the same rank in the batch: optimal transport in one dimension.

        The result stays at the pair of `ours`. Padding has the highest ranks on both sides, so it drops out.
        """
        ranks = jnp.argsort(jnp.argsort(jnp.where(self.valid, ours, jnp.inf)))
        matched = jnp.sort(jnp.where(self.valid, others, jnp.inf))[ranks]
        return jnp.where(self.valid, ours - matched, 0.0)

    def _score(self, log_ratio: jax.Array) -> jax.Array:
        """f'(ratio) - f'(1) of the divergence's generator f: log(ratio) for the reverse KL."""
        kind, coefficient = self.options.f_divergence_type, self.options.f_alpha_divergence_coef
        if kind == "js_divergence":
            return math.log(2) + jax.nn.log_sigmoid(log_ratio)
        alpha = {"reverse_kl": 1.0, "forward_kl": 0.0}.get(kind, coefficient)
        if abs(alpha - 1) < 1e-6:
            return log_ratio
        return _expm1((alpha - 1) * log_ratio) / (alpha - 1)


def at_least_one(lengths: jax.typing.ArrayLike) -> jax.Array:
    """Lengths to divide by: a completion without tokens has sum 0, and so mean 0."""
    return jnp.maximum(jnp.asarray(lengths), 1)


def _expm1(x: jax.Array) -> jax.Array:
    return jnp.expm1(jnp.minimum(x, _EXP_LIMIT)) + math.exp(_EXP_LIMIT) * jnp.maximum(x - _EXP_LIMIT, 0.0)


def _sigmoid(pairs: Pairs) -> jax.Array:
    return pairs.smoothed(pairs.margin)


def _hinge(pairs: Pairs) -> jax.Array:
    return jax.nn.relu(1 - pairs.margin)


def _ipo(pairs: Pairs) -> jax.Array:
    difference = pairs.difference_per_token(pairs.chosen_score, pairs.rejected_score)
    return jnp.square(difference - 0.5 / pairs.beta)


def _exo_pair(pairs: Pairs) -> jax.Array:
    """The KL divergence of the policy's preference, sigmoid(margin), from the smoothed label."""
    margin, smoothing = pairs.margin, pairs.options.label_smoothing
    keeps = jax.nn.sigmoid(margin) * (jax.nn.log_sigmoid(margin) - math.log1p(-smoothing))
    flips = jax.nn.sigmoid(-margin) * (jax.nn.log_sigmoid(-margin) - math.log(smoothing))
    return keeps + flips


def _nca_pair(pairs: Pairs) -> jax.Array:
    up = jax.nn.log_sigmoid(pairs.chosen_reward)
    down = jax.nn.log_sigmoid(-pairs.chosen_reward) + jax.nn.log_sigmoid(-pairs.rejected_reward)
    return -up - 0.5 * down


def _robust(pairs: Pairs) -> jax.Array:
    margin, smoothing = pairs.margin, pairs.options.label_smoothing
    losses = -(1 - smoothing) * jax.nn.log_sigmoid(margin) + smoothing * jax.nn.log_sigmoid(-margin)
    return losses / (1 - 2 * smoothing)


def _bco_pair(pairs: Pairs) -> jax.Array:
    chosen, rejected = pairs.chosen_reward - pairs.options.bco_delta, pairs.rejected_reward - pairs.options.bco_delta
    return -jax.nn.log_sigmoid(chosen) - jax.nn.log_sigmoid(-rejected)


def _sppo_hard(pairs: Pairs) -> jax.Array:
    half = 0.5 / pairs.beta
    chosen = pairs.policy_chosen - pairs.ref_chosen
    rejected = pairs.policy_rejected - pairs.ref_rejected
    return jnp.square(chosen - half) + jnp.square(rejected + half)


def _aot(pairs: Pairs) -> jax.Array:
    policy, ref = pairs.policy_chosen - pairs.policy_rejected, pairs.ref_chosen - pairs.ref_rejected
    return pairs.smoothed(pairs.beta * pairs.rank_margin(policy, ref))


def _aot_unpaired(pairs: Pairs) -> jax.Array:
    return pairs.smoothed(pairs.rank_margin(pairs.chosen_reward, pairs.rejected_reward))


def _apo_zero(pairs: Pairs) -> jax.Array:
    return jax.nn.sigmoid(-pairs.chosen_reward) + jax.nn.sigmoid(pairs.rejected_reward)


def _apo_down(pairs: Pairs) -> jax.Array:
    return jax.nn.sigmoid(pairs.chosen_reward) + jax.nn.sigmoid(pairs.rejected_reward - pairs.chosen_reward)


def _discopop(pairs: Pairs) -> jax.Array:
    margin = pairs.margin
    tempered = margin / pairs.options.discopop_tau
    logistic = -jax.nn.log_sigmoid(margin) * jax.nn.sigmoid(-tempered)
    # One exponent for the whole product: exp(-margin) alone overflows where the sigmoid is 0.
    exponential = 1 + _expm1(jax.nn.log_sigmoid(tempered) - margin)
    return logistic + exponential


def _sft(pairs: Pairs) -> jax.Array:
    return -pairs.policy_chosen / at_least_one(pairs.chosen_lengths)


def _sigmoid_norm(pairs: Pairs) -> jax.Array:
    return pairs.smoothed(pairs.beta * pairs.difference_per_token(pairs.chosen_score, pairs.rejected_score))


def _simpo(pairs: Pairs) -> jax.Array:
    difference = pairs.difference_per_token(pairs.policy_chosen, pairs.policy_rejected)
    return pairs.smoothed(pairs.beta * difference - pairs.options.simpo_gamma)


FORMULAS: Mapping[str, Callable[[Pairs], jax.Array]] = {
    "sigmoid": _sigmoid,
    "hinge": _hinge,
    "ipo": _ipo,
    "exo_pair": _exo_pair,
    "nca_pair": _nca_pair,
    "robust": _robust,
    "bco_pair": _bco_pair,
    "sppo_hard": _sppo_hard,
    "aot": _aot,
    "aot_unpaired": _aot_unpaired,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _discopop,
    "sft": _sft,
    "sigmoid_norm": _sigmoid_norm,
    "simpo": _simpo,
}
