"""The losses of preference optimisation and their options. The formulas are in `dpo_formulas`.

Names are those of TRL 1.16's `DPOConfig.loss_type`, plus `simpo`, which has no reference model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from marin_sft.errors import ConfigError
from marin_sft.execution.step import omitted_when
from marin_sft.nearest import did_you_mean
from marin_sft.training.checks import is_number

F_DIVERGENCE_TYPES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")


@dataclass(frozen=True)
class LossType:
    """The properties of a loss.

    label_smoothing: whether it can use the assumed probability that a label is flipped; "needed" if it is infinite
    without.
    f_divergence: whether it allows other divergences than the reverse KL (f-DPO, arXiv:2309.16240): it depends on the
    difference of the two rewards only, in which the partition function cancels.
    sorts: whether a pair's loss depends on the ranks of all pairs of the batch.
    reference: whether it uses a reference model.
    """

    label_smoothing: Literal["no", "optional", "needed"] = "no"
    f_divergence: bool = False
    sorts: bool = False
    reference: bool = True


LOSS_TYPES: Mapping[str, LossType] = {
    "sigmoid": LossType(label_smoothing="optional", f_divergence=True),
    "hinge": LossType(f_divergence=True),
    "ipo": LossType(f_divergence=True),
    "exo_pair": LossType(label_smoothing="needed", f_divergence=True),
    "nca_pair": LossType(),
    "robust": LossType(label_smoothing="optional", f_divergence=True),
    "bco_pair": LossType(),
    "sppo_hard": LossType(),
    "aot": LossType(label_smoothing="optional", sorts=True),
    "aot_unpaired": LossType(label_smoothing="optional", sorts=True),
    "apo_zero": LossType(),
    "apo_down": LossType(),
    "discopop": LossType(f_divergence=True),
    "sft": LossType(f_divergence=True, reference=False),
    "sigmoid_norm": LossType(label_smoothing="optional", f_divergence=True),
    "simpo": LossType(label_smoothing="optional", reference=False),
}
_OLDER_NAMES = {"aot_pair": "aot_unpaired"}  # TRL before 1.0, EasyDeL


def loss_type_named(name: str) -> str:
    """The key of LOSS_TYPES for `name`.

    Raises:
        ConfigError: there is no such loss; the message lists all, and the nearest.
    """
    name = _OLDER_NAMES.get(name, name)
    _require_one_of("loss_type", name, LOSS_TYPES)
    return name


def loss_weights_of(
    loss_types: str | Sequence[str] | Mapping[str, float], loss_weights: Sequence[float] | None = None
) -> dict[str, float]:
    """A loss, or a weighted sum of losses, as loss type -> weight.

    Accepts `"sigmoid"`, `["sigmoid", "sft"]` (with weights 1, or `loss_weights` as in TRL), and
    `{"sigmoid": 1.0, "sft": 0.5}`.

    Raises:
        ConfigError: a name is unknown or repeated, there is none, the numbers of names and weights differ, a weight is
            negative or not finite, or no weight is above 0.
    """
    if isinstance(loss_types, Mapping):
        if loss_weights is not None:
            raise ConfigError(f"loss_types={dict(loss_types)} already has weights; expected no loss_weights")
        loss_weights = list(loss_types.values())
    named = isinstance(loss_types, str | Sequence | Mapping)
    _require(named, "loss_type", loss_types, "a name, several, or weights by name")
    numbers = loss_weights is None or all(is_number(weight) for weight in loss_weights)
    _require(numbers, "loss_weights", loss_weights, "numbers")
    names = [loss_type_named(name) for name in ([loss_types] if isinstance(loss_types, str) else loss_types)]
    weights = [1.0] * len(names) if loss_weights is None else [float(weight) for weight in loss_weights]
    if len(weights) != len(names):
        raise ConfigError(f"loss_weights={weights}; expected {len(names)}, one for each of {names}")
    if len(set(names)) != len(names):
        raise ConfigError(f"loss_types={names}; expected each loss once: add the weights up")
    if not all(weight >= 0 for weight in weights) or not any(weights):
        raise ConfigError(f"loss_types={dict(zip(names, weights, strict=True))}; expected weights >= 0, one above 0")
    return dict(zip(names, weights, strict=True))


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Which losses of pairs to minimise, and their options. Options are declared, documented and checked here; the
    formulas use them."""

    loss_type: str | Sequence[str] | Mapping[str, float] = "sigmoid"
    """A key of `LOSS_TYPES`, or several with their weights."""

    beta: float = 0.1
    """How strongly the policy is kept near the reference. For `ipo`, the paper's tau."""

    label_smoothing: float = 0.0
    """Probability that a label is flipped, from 0 to below 0.5. In a sum of losses, it applies to those that use it."""

    f_divergence_type: str = "reverse_kl"
    """One of `F_DIVERGENCE_TYPES`."""

    f_alpha_divergence_coef: float = 0.5
    """alpha in "alpha_divergence": f'(t) - f'(1) = (t^(alpha - 1) - 1) / (alpha - 1). 1 is reverse_kl, 0 is
    forward_kl."""

    discopop_tau: float = 0.05
    """tau of `discopop`."""

    simpo_gamma: float = 0.5
    """gamma of `simpo`. The paper's ratio gamma / beta is `simpo_gamma / beta`."""

    bco_delta: float = omitted_when(0.0, default=0.0)
    """The baseline that `bco_pair` subtracts from the rewards of both completions."""

    ld_alpha: float | None = None
    """Weight of a completion's tokens beyond the length of the other one (LD-DPO, arXiv:2409.06411). None: 1."""

    use_weighting: bool = False
    """Weight pairs by how likely the policy finds them (WPO, arXiv:2406.11827)."""

    def weights(self) -> dict[str, float]:
        """The losses with a weight above 0, by name."""
        return {name: weight for name, weight in loss_weights_of(self.loss_type).items() if weight}

    def alone(self, loss_type: str) -> LossOptions:
        """The options of this loss in a sum of losses."""
        mine = {field.name: getattr(self, field.name) for field in fields(LossOptions)}
        takes = LOSS_TYPES[loss_type].label_smoothing != "no"
        return LossOptions(**{**mine, "loss_type": loss_type, **({} if takes else {"label_smoothing": 0.0})})

    def check_losses(self) -> None:
        """Raise ConfigError for a value out of range, or one that the losses cannot use."""
        names = list(self.weights())
        for field in fields(LossOptions):
            value = getattr(self, field.name)
            _require(field.type != "float" or is_number(value), field.name, value, "a finite number")
        _require(self.beta > 0, "beta", self.beta, "a number above 0")
        _check_label_smoothing(names, self.label_smoothing)
        _require_one_of("f_divergence_type", self.f_divergence_type, F_DIVERGENCE_TYPES)
        if self.f_divergence_type != "reverse_kl":
            able = [name for name, loss in LOSS_TYPES.items() if loss.f_divergence]
            expected = f"reverse_kl, or losses among {able}"
            _require(set(names) <= set(able), "f_divergence_type", self.f_divergence_type, expected)
        _require(self.discopop_tau > 0, "discopop_tau", self.discopop_tau, "a number above 0 (the paper: 0.05)")
        _require(self.simpo_gamma >= 0, "simpo_gamma", self.simpo_gamma, "a number from 0")
        alpha = self.ld_alpha
        _require(alpha is None or 0 <= alpha <= 1, "ld_alpha", alpha, "a number from 0 to 1")
        sorting = [name for name in names if LOSS_TYPES[name].sorts]
        if self.use_weighting and sorting:
            raise ConfigError(
                f"use_weighting=True: pairs are weighted one by one, but {sorting} sort them over the batch"
            )


def _check_label_smoothing(names: list[str], value: float) -> None:
    needed = [name for name in names if LOSS_TYPES[name].label_smoothing == "needed"]
    if needed:
        _require(0 < value < 0.5, "label_smoothing", value, f"above 0 and below 0.5 for {needed} (the paper: 1e-3)")
    _require(0 <= value < 0.5, "label_smoothing", value, "a probability of flipped labels from 0 to below 0.5")
    if value and all(LOSS_TYPES[name].label_smoothing == "no" for name in names):
        takers = [name for name, loss in LOSS_TYPES.items() if loss.label_smoothing != "no"]
        raise ConfigError(f"label_smoothing={value}, which {names} cannot use; expected 0, or a loss among {takers}")


def _require(holds: bool, field: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{field}={value!r}; expected {expected}")


def _require_one_of(field: str, value: str, choices: Iterable[str]) -> None:
    known = list(choices)
    if value not in known:
        raise ConfigError(f"{field}={value!r}; expected one of {known}{did_you_mean(str(value), known)}")
