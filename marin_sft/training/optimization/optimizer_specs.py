"""The optimizers with their options, and the settings from which `optimizers` builds one. Light: no JAX."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from marin_sft.arguments import part_of_config
from marin_sft.errors import ConfigError
from marin_sft.execution.step import omitted_when
from marin_sft.nearest import nearest
from marin_sft.training.checks import require, require_pattern


@dataclass(frozen=True)
class OptimizerSpec:
    """The options of an optimizer.

    betas: which of beta1 and beta2 it has.
    epsilon: the default of `epsilon`. None: it has no such setting.
    options: its `optimizer_options` with their defaults.
    """

    betas: tuple[str, ...] = ("beta1", "beta2")
    epsilon: float | None = 1e-8
    options: Mapping[str, object] = field(default_factory=dict)


# Unless noted, betas are the decay rates of the running means of gradients and of their squares.
OPTIMIZERS = {
    # arXiv 1711.05101. nesterov: as NAdam.
    "adamw": OptimizerSpec(options={"nesterov": False}),
    # arXiv 1804.04235: second moments as row and column sums, for matrices with both sides at least
    # min_dim_size_to_factor. clipping_threshold: for the root mean square of an update; None: off.
    "adafactor": OptimizerSpec(
        betas=(),
        epsilon=1e-30,
        options={
            "decay_rate": 0.8,
            "clipping_threshold": 1.0,
            "min_dim_size_to_factor": 128,
            "multiply_by_parameter_scale": False,
        },
    ),
    # arXiv 2406.16793: one second moment per head, row or matrix.
    "adam_mini": OptimizerSpec(),
    # arXiv 2411.02853. The first update is 0: it only fills the second moments.
    "adopt": OptimizerSpec(epsilon=1e-6),
    # arXiv 2411.16085: AdamW without the coordinates in which update and gradient disagree.
    "cautious": OptimizerSpec(),
    # arXiv 2302.06675: the sign of gradient and momentum averaged with beta1; the momentum decays with beta2.
    "lion": OptimizerSpec(epsilon=None),
    # arXiv 2411.10438, with AdamW's direction. gamma: strength of the variance correction.
    "mars": OptimizerSpec(options={"gamma": 0.025}),
    # https://kellerjordan.github.io/posts/muon for the weights of linear layers, Adam for all others, with the rate
    # adam_lr unless it is None. use_kimi_scaling, arXiv 2502.16982: updates as large as Adam's, so one rate fits both.
    "muon": OptimizerSpec(
        options={
            "momentum": 0.95,
            "nesterov": True,
            "backend_steps": 5,
            "muon_epsilon": 1e-8,
            "coefficient_type": "quintic",
            "use_kimi_scaling": True,
            "adam_lr": None,
        }
    ),
    # As torch.optim.RMSprop; its alpha is beta2.
    "rmsprop": OptimizerSpec(betas=("beta2",), options={"momentum": 0.0}),
    # arXiv 2502.07529 for the weights of linear layers. For others: the sign of the momentum with beta1, at
    # scion_to_signum_lr times the rate.
    "scion": OptimizerSpec(
        betas=("beta1",),
        epsilon=None,
        options={
            "momentum": 0.95,
            "backend_steps": 10,
            "scion_epsilon": 1e-8,
            "coefficient_type": "quintic",
            "scion_to_signum_lr": 0.25,
        },
    ),
}
_HANGS = "Levanter's hangs in its first step on CPU, so it could not be tested; use 'muon'"
REFUSED = {
    "kron": _HANGS,
    "soap": _HANGS,
    "quad": "it is neither in Levanter nor in Optax; use 'muon'",
    "skew": "it is neither in Levanter nor in Optax; use 'muon'",
}
DEFAULT_BETAS = {"beta1": 0.9, "beta2": 0.95}
_COEFFICIENTS = ("simple", "quintic", "polar_express", "aol")  # of the Newton-Schulz iteration, in Levanter
_CHOICES = {"coefficient_type": _COEFFICIENTS}
_NUMBER_OR_NONE = ("clipping_threshold", "adam_lr")


@part_of_config
class OptimizerSettings:
    """How gradients become updates. For the learning rate, see `ScheduleSettings`."""

    optimizer: str = omitted_when("adamw", default="adamw")
    """One of `OPTIMIZERS`."""

    optimizer_options: dict[str, object] = omitted_when({}, default_factory=dict)
    """Options of this optimizer only, by name: see `OPTIMIZERS`."""

    beta1: float = DEFAULT_BETAS["beta1"]
    """Decay rate of the running mean of gradients."""

    beta2: float = DEFAULT_BETAS["beta2"]
    """Decay rate of the running mean of squared gradients."""

    epsilon: float | None = omitted_when(None, default=None)
    """Added to the denominator. None: the optimizer's default."""

    weight_decay: float = 0.0
    """Decoupled weight decay, multiplied by the learning rate."""

    weight_decay_parameters: str | None = omitted_when(None, default=None)
    """A regular expression for the tensors that decay, see `tensor_names`. None: all but norms, embeddings and
    biases."""

    max_grad_norm: float | None = 1.0
    """Clips the global norm of the gradient. None: off."""

    skip_bad_steps: int | None = omitted_when(None, default=None)
    """Skip the update of a step whose loss or gradient norm is more than six standard deviations above the mean of this
    many steps before it. `skipped_steps` in the metrics counts them. None: never."""

    def check_optimizer(self) -> None:
        """Raise ConfigError for a value that cannot be used, or an option that the optimizer does not have."""
        where, name = type(self).__name__, self.optimizer
        if name in REFUSED:
            raise ConfigError(f"{where}.optimizer = {name!r}: {REFUSED[name]}")
        if name not in OPTIMIZERS:
            raise ConfigError(f"{where}.optimizer = {name!r}: {_expected(str(name), OPTIMIZERS)}")
        self._check_options(OPTIMIZERS[name])
        require(self, "weight_decay", self.weight_decay >= 0, "at least 0")
        for beta in DEFAULT_BETAS:
            require(self, beta, 0 <= getattr(self, beta) < 1, "from 0 to below 1")
        if self.weight_decay_parameters is not None:
            require(self, "weight_decay_parameters", self.weight_decay > 0, "None where weight_decay is 0")
            require_pattern(self, "weight_decay_parameters", self.weight_decay_parameters)
        require(self, "epsilon", self.epsilon is None or self.epsilon > 0, "above 0, or None")
        skips = self.skip_bad_steps is None or self.skip_bad_steps >= 2
        require(self, "skip_bad_steps", skips, "at least 2 steps to compare with, or None")
        require(self, "max_grad_norm", self.max_grad_norm is None or self.max_grad_norm > 0, "above 0, or None")

    def _check_options(self, spec: OptimizerSpec) -> None:
        where, name = type(self).__name__, self.optimizer
        for beta, default in DEFAULT_BETAS.items():
            if beta not in spec.betas and getattr(self, beta) != default:
                raise ConfigError(f"{where}.{beta} = {getattr(self, beta)!r}: {name} has no {beta}; leave it out")
        if self.epsilon is not None and spec.epsilon is None:
            raise ConfigError(f"{where}.epsilon = {self.epsilon!r}: {name} has no epsilon; leave it out")
        for option, value in self.optimizer_options.items():
            at = f"{where}.optimizer_options[{option!r}] = {value!r}"
            if option not in spec.options:
                raise ConfigError(f"{at}: not an option of {name}; {_expected(str(option), spec.options)}")
            expected = _refusal(option, value, spec.options[option])
            if expected is not None:
                raise ConfigError(f"{at}: expected {expected}")


def _refusal(option: str, value: object, default: object) -> str | None:
    """What was expected, if `value` does not suit the option. None: it does."""
    if option in _CHOICES:
        return None if value in _CHOICES[option] else f"one of {', '.join(map(repr, _CHOICES[option]))}"
    if option in _NUMBER_OR_NONE and value is None:
        return None
    if isinstance(default, bool) or isinstance(value, bool):
        return None if isinstance(value, bool) == isinstance(default, bool) else f"a value like {default!r}"
    whole = isinstance(default, int)
    kind = "whole number" if whole else "number"
    return None if isinstance(value, int if whole else int | float) and value >= 0 else f"a {kind} of at least 0"


def _expected(got: str, names: Collection[str]) -> str:
    near = nearest(got.lower(), names)
    suggestion = f"did you mean {near[0]!r}? " if near else ""
    return f"{suggestion}expected one of {', '.join(names) or 'none: it has no options'}"
