"""The loss of one micro-batch of preference pairs, and the figures that are logged with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from levanter.models.lm_model import LmHeadModel

from marin_sft.data.batches.pair_batches import PairBatch
from marin_sft.training.completions import completion_arrays, completions
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.dpo_losses import (
    dpo_loss_parts,
    implicit_rewards,
    length_desensitized,
    weighted_sum,
    wpo_weights,
)
from marin_sft.training.objective import Figures
from marin_sft.training.references import References

ROUNDING = 1e-6
"""Relative rounding error of a completion's log-probability: it is summed in another order when packed differently."""


def pair_arrays(batch: PairBatch, references: References | None) -> dict[str, np.ndarray]:
    """The arrays for `completions`, and the others that `PairLoss` needs: see `Objective.arrays`."""
    micro_steps = len(batch.lengths)
    chosen, rejected = batch.lengths[:, 0::2].sum(), batch.lengths[:, 1::2].sum()
    totals = np.array([(batch.lengths[:, 0::2] > 0).sum(), chosen, rejected], np.float32)
    arrays = {**completion_arrays(batch), "totals": np.tile(totals, (micro_steps, 1))}
    if references is not None:
        arrays["reference"] = references.of(batch.pairs).reshape(micro_steps, -1)
    return arrays


class PairLoss:
    """From a model and a micro-batch of `pair_arrays` to its share of the loss, and figures to log.

    Means are over all pairs of the global batch; for `entropy` and `sft`, over all tokens.
    `kl`: the mean of log(policy / reference) over the completions, in nats: how far the policy has moved on them.
    `rewards/magnitude`: the mean absolute reward, logged if the first rewards are checked to be 0.
    Without a reference, there is no `kl`, and rewards are beta * log(policy); with SimPO, per token.
    """

    def __init__(self, config: DPOConfig) -> None:
        self._config = config
        self._weights = config.weights()

    def __call__(
        self,
        model: LmHeadModel,
        batch: Mapping[str, hax.NamedArray],
        key: jax.Array | None,
        reference: LmHeadModel | None,
    ) -> tuple[jax.Array, Figures]:
        config = self._config
        found = completions(model, batch, key, entropy=True, log_sum_squares=config.use_weighting)
        valid, lengths = found.valid, found.lengths
        plain = found.logps
        policy, compared = length_desensitized(plain, found.tails, config.ld_alpha), self._reference(batch, reference)
        ref = jnp.zeros_like(policy) if compared is None else compared
        pairs, chosen_tokens, rejected_tokens = batch["totals"].array
        logps = {"policy_chosen": policy[:, 0], "policy_rejected": policy[:, 1]}
        of_tokens = {"chosen_lengths": lengths[:, 0], "rejected_lengths": lengths[:, 1]}
        weights, squares, entropies = None, found.log_sum_squares, found.entropies
        assert entropies is not None
        if squares is not None:
            weights = wpo_weights(
                policy_chosen=plain[:, 0],
                policy_rejected=plain[:, 1],
                **of_tokens,
                chosen_log_sum_squares=squares[:, 0],
                rejected_log_sum_squares=squares[:, 1],
            )
        parts = dpo_loss_parts(
            config,
            **logps,
            **of_tokens,
            ref_chosen=ref[:, 0],
            ref_rejected=ref[:, 1],
            valid=valid,
            pair_weights=weights,
            sft_chosen=plain[:, 0],
            total_pairs=pairs,
            total_chosen_tokens=chosen_tokens,
        )
        loss = weighted_sum(config, parts)

        def mean(values: jax.Array) -> jax.Array:
            return jnp.where(valid, jax.lax.stop_gradient(values), 0.0).sum() / pairs

        rewards = implicit_rewards(policy, ref, config.beta)
        if compared is None and "simpo" in self._weights:
            rewards /= jnp.maximum(lengths, 1)
        # Rewards that differ by rounding only are a tie, which counts as wrong. At the first step, all are ties.
        ties = config.beta * ROUNDING * (jnp.abs(policy) + jnp.abs(ref)).sum(axis=1)
        figures = {
            "rewards/chosen": mean(rewards[:, 0]),
            "rewards/rejected": mean(rewards[:, 1]),
            "rewards/accuracies": mean((rewards[:, 0] - rewards[:, 1] > ties).astype(jnp.float32)),
            "rewards/margins": mean(rewards[:, 0] - rewards[:, 1]),
            "logps/chosen": mean(policy[:, 0]),
            "logps/rejected": mean(policy[:, 1]),
            "entropy": jax.lax.stop_gradient(entropies).sum() / (chosen_tokens + rejected_tokens),
        }
        if compared is not None:
            figures["kl"] = mean((policy - ref).mean(axis=1))
        if config.starts_at_reference:
            figures["rewards/magnitude"] = mean(jnp.abs(rewards).mean(axis=1))
        if len(parts) > 1:
            figures |= {f"loss/{name}": jax.lax.stop_gradient(part) for name, part in parts.items()}
        return loss, figures

    def _reference(self, batch: Mapping[str, hax.NamedArray], reference: LmHeadModel | None) -> jax.Array | None:
        alpha = self._config.ld_alpha
        if reference is not None:
            found = completions(jax.lax.stop_gradient(reference), batch)
            return jax.lax.stop_gradient(length_desensitized(found.logps, found.tails, alpha))
        if "reference" in batch:
            cached = batch["reference"].array.reshape(-1, 4)
            return length_desensitized(cached[:, :2], cached[:, 2:], alpha)
        return None

    def together(self, measured: Sequence[tuple[Mapping[str, float], np.ndarray]]) -> dict[str, float]:
        """The figures of several batches combined, from each batch's figures and `totals` (see `pair_arrays`)."""
        pairs, chosen, rejected = np.array([totals for _, totals in measured], np.float64).T

        def mean(name: str, kind: str) -> float:
            weights = {"sft": chosen, "entropy": chosen + rejected}.get(kind, pairs)
            return float(weights @ [figures[name] for figures, _ in measured] / max(weights.sum(), 1.0))

        means = {name: mean(name, name.removeprefix("loss/")) for name in measured[0][0]}
        if len(self._weights) > 1:
            means["loss"] = sum(weight * means[f"loss/{name}"] for name, weight in self._weights.items())
        else:
            means["loss"] = mean("loss", next(iter(self._weights)))
        return means
