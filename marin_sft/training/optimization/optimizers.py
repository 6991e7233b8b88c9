"""Optimizers by name. Each only computes a direction; the update is the same for all:

    weights -= rate * (direction(clipped gradient) + weight_decay * weights)

The gradient's global norm is clipped to `max_grad_norm`. Weight decay applies to the chosen parameters only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
import levanter.tracker
import optax
import optax.contrib
from levanter.optim import AdamConfig
from levanter.optim.adam_mini import MiniConfig
from levanter.optim.cautious import scale_by_cautious
from levanter.optim.mars import scale_by_mars
from levanter.optim.muon import scale_with_muon
from levanter.optim.scion import ScionConfig, scale_with_scion
from levanter.optim.skipstep import SkipStepConfig

from marin_sft.training.models.tensor_names import map_tensors, names_of, require_match
from marin_sft.training.optimization.matrices import for_each_matrix
from marin_sft.training.optimization.optimizer_specs import OPTIMIZERS
from marin_sft.training.optimization.schedules import schedule
from marin_sft.training.train_config import TrainConfig

if TYPE_CHECKING:
    from jaxtyping import PyTree


def optimizer(config: TrainConfig, num_steps: int) -> optax.GradientTransformation:
    """From gradients to updates of the weights."""
    spec = OPTIMIZERS[config.optimizer]
    options = {**spec.options, **config.optimizer_options}
    epsilon = spec.epsilon if config.epsilon is None else config.epsilon
    parts = [] if config.max_grad_norm is None else [optax.clip_by_global_norm(config.max_grad_norm)]
    parts.append(_DIRECTIONS[config.optimizer](config, epsilon, **options))
    if config.weight_decay > 0:
        parts.append(_weight_decay(config))
    direction = optax.chain(*parts)
    if config.skip_bad_steps is not None:
        direction = _skipping(direction, config.skip_bad_steps)
    return optax.chain(direction, optax.scale_by_learning_rate(schedule(config, num_steps)))


class Skipping(NamedTuple):
    """State of an optimizer that skips steps. `train_step` finds the count by its name."""

    skipped_steps: jax.Array
    inner: optax.OptState


def _skipping(direction: optax.GradientTransformation, steps: int) -> optax.GradientTransformation:
    skipping = SkipStepConfig(rolling_interval_length=steps).wrap(direction)

    def init(params: optax.Params) -> Skipping:
        return Skipping(jnp.zeros((), jnp.int32), skipping.init(params))

    def update(
        updates: optax.Updates, state: Skipping, params: optax.Params | None = None, **extra: object
    ) -> tuple[optax.Updates, Skipping]:
        with levanter.tracker.defer_tracker_for_jit() as logged:  # else it is logged by a callback, and lost
            updates, inner = skipping.update(updates, state.inner, params, **extra)
        skipped = logged["optim/skipped_step"].astype(jnp.int32)
        return updates, Skipping(state.skipped_steps + skipped, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _weight_decay(config: TrainConfig) -> optax.GradientTransformation:
    pattern = config.weight_decay_parameters
    if pattern is None:  # Levanter's choice: all but norms, embeddings and biases
        return optax.add_decayed_weights(config.weight_decay, AdamConfig().build_weight_decay_mask())
    names = names_of(config.base())
    require_match(names, pattern, "weight_decay_parameters")

    def rate(name: str) -> float:
        return config.weight_decay if re.search(pattern, name) else 0.0

    def decay(updates: optax.Updates, params: optax.Params) -> optax.Updates:
        def decayed(rates: float | hax.NamedArray, update: hax.NamedArray, weight: hax.NamedArray) -> hax.NamedArray:
            return (update + rates * weight).rearrange(update.axes)

        return map_tensors(decayed, names, rate, updates, params)

    return optax.stateless(decay)


def _adamw(config: TrainConfig, epsilon: float, *, nesterov: bool) -> optax.GradientTransformation:
    return optax.scale_by_adam(config.beta1, config.beta2, epsilon, nesterov=nesterov)


def _adafactor(
    config: TrainConfig,
    epsilon: float,
    *,
    decay_rate: float,
    clipping_threshold: float | None,
    min_dim_size_to_factor: int,
    multiply_by_parameter_scale: bool,
) -> optax.GradientTransformation:
    factored = optax.scale_by_factored_rms(
        decay_rate=decay_rate, min_dim_size_to_factor=min_dim_size_to_factor, epsilon=epsilon
    )
    parts = [factored]
    if clipping_threshold is not None:
        parts.append(optax.clip_by_block_rms(clipping_threshold))
    if multiply_by_parameter_scale:
        parts.append(optax.scale_by_param_block_rms())
    return for_each_matrix(optax.chain(*parts))


def _adam_mini(config: TrainConfig, epsilon: float) -> optax.GradientTransformation:
    mini = MiniConfig(
        learning_rate=1.0,
        lr_schedule="constant",
        warmup=0.0,
        weight_decay=0.0,
        beta1=config.beta1,
        beta2=config.beta2,
        epsilon=epsilon,
        max_grad_norm=None,  # off, although its type does not allow it
    )
    return optax.chain(mini.build(1), optax.scale(-1.0))  # `mini` returns updates, i.e. minus the direction


def _adopt(config: TrainConfig, epsilon: float) -> optax.GradientTransformation:
    # Levanter's lacks the paper's clipping: a weight without gradient in the first step jumps.
    return optax.contrib.scale_by_adopt(config.beta1, config.beta2, epsilon)


def _cautious(config: TrainConfig, epsilon: float) -> optax.GradientTransformation:
    return scale_by_cautious(config.beta1, config.beta2, epsilon)


def _lion(config: TrainConfig, epsilon: None) -> optax.GradientTransformation:
    return optax.scale_by_lion(config.beta1, config.beta2)


def _mars(config: TrainConfig, epsilon: float, *, gamma: float) -> optax.GradientTransformation:
    return scale_by_mars(config.beta1, config.beta2, gamma, epsilon)


def _muon(
    config: TrainConfig,
    epsilon: float,
    *,
    momentum: float,
    nesterov: bool,
    backend_steps: int,
    muon_epsilon: float,
    coefficient_type: str,
    use_kimi_scaling: bool,
    adam_lr: float | None,
) -> optax.GradientTransformation:
    muon = scale_with_muon(momentum, nesterov, backend_steps, muon_epsilon, use_kimi_scaling, coefficient_type)
    share = 1.0 if adam_lr is None else adam_lr / config.learning_rate
    adam = optax.chain(optax.scale_by_adam(config.beta1, config.beta2, epsilon), optax.scale(share))
    return optax.multi_transform({"muon": muon, "adamw": adam}, _muon_labels)


def _muon_labels(params: optax.Params) -> PyTree:
    """Weights of linear layers except the head are "muon", all others "adamw"."""
    # Scion's mask has the same parts. Muon's own reads the axes of every weight, but weights that are not trained have
    # none. Without use_kimi_scaling it also insists on Out before In, which holds for all our models and adapters.
    return jax.tree_util.tree_map({"scion": "muon", "signum": "adamw"}.get, ScionConfig().create_mask(params))


def _rmsprop(config: TrainConfig, epsilon: float, *, momentum: float) -> optax.GradientTransformation:
    scaled = optax.scale_by_rms(config.beta2, epsilon, eps_in_sqrt=False)
    return optax.chain(scaled, optax.trace(momentum)) if momentum else scaled


def _scion(
    config: TrainConfig,
    epsilon: None,
    *,
    momentum: float,
    backend_steps: int,
    scion_epsilon: float,
    coefficient_type: str,
    scion_to_signum_lr: float,
) -> optax.GradientTransformation:
    scion = scale_with_scion(momentum, backend_steps, scion_epsilon, coefficient_type)
    sign = optax.stateless(lambda updates, params: jax.tree_util.tree_map(jnp.sign, updates))
    signum = optax.chain(optax.ema(config.beta1, debias=False), sign, optax.scale(scion_to_signum_lr))
    return optax.multi_transform({"scion": scion, "signum": signum}, ScionConfig().create_mask)


_DIRECTIONS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adamw": _adamw,
    "adafactor": _adafactor,
    "adam_mini": _adam_mini,
    "adopt": _adopt,
    "cautious": _cautious,
    "lion": _lion,
    "mars": _mars,
    "muon": _muon,
    "rmsprop": _rmsprop,
    "scion": _scion,
}
