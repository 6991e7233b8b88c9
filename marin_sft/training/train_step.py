"""One optimizer step on the devices: gradients of a batch's micro-batches added up, then one update."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import optax
from levanter.trainer import Trainer
from levanter.trainer_state import trainables_only
from levanter.utils.jax_utils import zeros_like_tree
from levanter.utils.tree_utils import inference_mode

from marin_sft.training.axes import MICRO
from marin_sft.training.cpu.one_cpu import for_training_here
from marin_sft.training.objective import Figures

Loss = Callable[[Any, Mapping[str, hax.NamedArray], jax.Array, Any], tuple[jax.Array, Figures]]
"""`Objective.loss`."""


class StepMetrics(NamedTuple):
    """Figures of one step, scalars on the devices: waiting for them is up to the caller."""

    loss: jax.Array
    grad_norm: jax.Array  # before clipping
    learning_rate: jax.Array
    figures: Figures


class Recorded(NamedTuple):
    """What the last update was made with; kept in the optimizer's state, from where the loop logs it."""

    updates: jax.Array  # how many there were
    grad_norm: jax.Array
    learning_rate: jax.Array


def recording(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Leaves gradients as they are; remembers their global L2 norm, and the rate that `schedule` gives them."""

    def init(params: Any) -> Recorded:
        return Recorded(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), jnp.asarray(schedule(0), jnp.float32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Recorded]:
        norm, rate = optax.global_norm(updates), schedule(state.updates)
        return updates, Recorded(state.updates + 1, jnp.asarray(norm, jnp.float32), jnp.asarray(rate, jnp.float32))

    return optax.GradientTransformation(init, update)


def step_function(trainer: Trainer, loss: Loss) -> Callable[[Any, Any], tuple[Any, StepMetrics]]:
    """`step(state, batch)`: the state after one step and its metrics. It returns once the step is under way.

    `batch`: NamedArrays with an axis of micro-batches in front. `state` is donated. (Levanter's own step averages the
    losses of micro-batches, which is wrong for parts of one sum, and waits for the loss: the devices would be idle
    until the next call.)
    """

    def step(state: Any, batch: Mapping[str, hax.NamedArray]) -> tuple[Any, StepMetrics]:
        key, new_key = jax.random.split(state.training_key)
        reference = None if state.model_averaging is None else state.model_averaging.model_params
        trainable = trainables_only(state.model, state.is_trainable)

        def micro_loss(trainable: Any, micro_batch: Any, key: jax.Array) -> tuple[jax.Array, Figures]:
            model = for_training_here(inference_mode(eqx.combine(trainable, state.model), False))
            with hax.axis_mapping(trainer.compute_axis_mapping):
                return loss(trainer.mp.cast_to_compute(model), micro_batch, key, trainer.mp.cast_to_compute(reference))

        with hax.axis_mapping(trainer.compute_axis_mapping):
            gradient = eqx.filter_value_and_grad(micro_loss, has_aux=True)
            (value, figures), grads = _sum(trainer, gradient, trainable, batch, key)
        new_state, _ = state.take_step(grads, loss=value, key=new_key)
        new_state = hax.shard(new_state, trainer.parameter_axis_mapping)
        recorded = new_state.opt_state[0]
        figures = {**figures, **_skipped(new_state)}
        return new_state, StepMetrics(value, recorded.grad_norm, recorded.learning_rate, figures)

    mapping = trainer.parameter_axis_mapping
    return hax.named_jit(step, axis_resources=mapping, out_axis_resources=mapping, donate_args=(True, False))


def _sum(
    trainer: Trainer,
    gradient: Callable[..., Any],
    trainable: Any,
    batch: Mapping[str, hax.NamedArray],
    key: jax.Array,
) -> Any:
    """`gradient` of each micro-batch, added up. One micro-batch in memory at a time."""
    micro_steps = next(iter(batch.values())).resolve_axis(MICRO)
    if micro_steps.size == 1:
        return gradient(trainable, {name: array[MICRO, 0] for name, array in batch.items()}, key)
    keys = hax.named(jax.random.split(key, micro_steps.size), (micro_steps, "key"))
    first = {name: array[MICRO, 0] for name, array in batch.items()}
    shapes = eqx.filter_eval_shape(gradient, trainable, first, key)
    zeros = zeros_like_tree(shapes, trainer.parameter_axis_mapping)

    def add(total: Any, micro: Any) -> Any:
        micro_batch, micro_key = micro
        here = gradient(trainable, micro_batch, micro_key.array)
        total = jax.tree_util.tree_map(jnp.add, total, here)
        return hax.shard(total, trainer.parameter_axis_mapping)

    return hax.fold(add, micro_steps)(zeros, (dict(batch), keys))


def without_update(state: Any) -> tuple[Any, StepMetrics]:
    """The state after a step on nothing: weights, optimizer and its schedule stay, only the step counts."""
    zero, rate = jnp.zeros((), jnp.float32), jnp.copy(state.opt_state[0].learning_rate)
    figures = {name: jnp.copy(figure) for name, figure in _skipped(state).items()}
    return dataclasses.replace(state, step=state.step + 1), StepMetrics(zero, zero, rate, figures)


def _skipped(state: Any) -> Figures:
    """How many steps were skipped so far, where `skip_bad_steps` is on."""
    count = optax.tree_utils.tree_get(state.opt_state, "skipped_steps")
    return {} if count is None else {"skipped_steps": count}
