"""One optimizer step on the devices: the gradients of all micro-batches are summed, then there is one update."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import optax
from levanter.models.lm_model import LmHeadModel
from levanter.trainer import Trainer
from levanter.trainer_state import TrainerState, trainables_only
from levanter.utils.jax_utils import zeros_like_tree
from levanter.utils.tree_utils import inference_mode

from marin_sft.training.axes import MICRO
from marin_sft.training.cpu.one_cpu import for_training_here
from marin_sft.training.objective import Figures

if TYPE_CHECKING:
    from jaxtyping import PyTree

Batch: TypeAlias = Mapping[str, hax.NamedArray]
Loss: TypeAlias = Callable[[LmHeadModel, Batch, jax.Array, LmHeadModel | None], tuple[jax.Array, Figures]]
"""`Objective.loss`."""


class StepMetrics(NamedTuple):
    """Figures of one step: scalars on the devices, possibly not computed yet."""

    loss: jax.Array
    grad_norm: jax.Array  # before clipping
    learning_rate: jax.Array
    figures: Figures


TakeStep: TypeAlias = Callable[[TrainerState, Batch], tuple[TrainerState, StepMetrics]]
"""From the state and a batch to the state after the step, and its metrics."""


class Recorded(NamedTuple):
    """Figures of the last update. They are part of the optimizer's state, and logged from there."""

    updates: jax.Array  # the number of updates so far
    grad_norm: jax.Array
    learning_rate: jax.Array


def recording(schedule: optax.Schedule) -> optax.GradientTransformation:
    """Passes gradients through, and records their global L2 norm and the rate of `schedule`."""

    def init(params: optax.Params) -> Recorded:
        return Recorded(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32), jnp.asarray(schedule(0), jnp.float32))

    def update(
        updates: optax.Updates, state: Recorded, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Recorded]:
        norm, rate = optax.global_norm(updates), schedule(state.updates)
        return updates, Recorded(state.updates + 1, jnp.asarray(norm, jnp.float32), jnp.asarray(rate, jnp.float32))

    return optax.GradientTransformation(init, update)


def step_function(trainer: Trainer, loss: Loss) -> TakeStep:
    """`step(state, batch)`: the state after one step, and its metrics. It does not wait for the devices.

    `batch`: NamedArrays whose first axis is micro-batches. `state` is donated. (Levanter's own step averages the losses
    of micro-batches, which is wrong for parts of one sum, and waits for the loss: the devices would be idle until the
    next call.)
    """
    step, mapping = _step(trainer, loss), trainer.parameter_axis_mapping
    return hax.named_jit(step, axis_resources=mapping, out_axis_resources=mapping, donate_args=(True, False))


class Program(NamedTuple):
    """The same step for eval_shapes with layouts, which Haliax's `named_jit` does not take. layouts: of the results."""

    function: Any
    shapes: tuple[PyTree, PyTree]
    layouts: PyTree

    def compiled(self) -> jax.stages.Compiled:
        compiled: jax.stages.Compiled = self.function.lower(*self.shapes).compile()
        return compiled


def program(trainer: Trainer, loss: Loss, state: TrainerState, batch: Batch) -> Program:
    step, mapping = _step(trainer, loss), trainer.parameter_axis_mapping
    shapes, rest = eqx.partition((state, batch), lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def of_shapes(state: TrainerState, batch: Batch) -> PyTree:
        with hax.axis_mapping(mapping):
            return eqx.filter(step(*eqx.combine((state, batch), rest)), eqx.is_array)

    with hax.axis_mapping(mapping):
        layouts = hax.partitioning.infer_resource_partitions(eqx.filter_eval_shape(of_shapes, *shapes), mapping)
    return Program(jax.jit(of_shapes, donate_argnums=0, out_shardings=layouts), shapes, layouts)


def _step(trainer: Trainer, loss: Loss) -> TakeStep:
    def step(state: TrainerState, batch: Batch) -> tuple[TrainerState, StepMetrics]:
        key, new_key = jax.random.split(state.training_key)
        reference = None if state.model_averaging is None else state.model_averaging.model_params
        trainable = trainables_only(state.model, state.is_trainable)

        def micro_loss(trainable: LmHeadModel, micro_batch: Batch, key: jax.Array) -> tuple[jax.Array, Figures]:
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

    return step


def _sum(
    trainer: Trainer,
    gradient: Callable[[LmHeadModel, Batch, jax.Array], PyTree],
    trainable: LmHeadModel,
    batch: Batch,
    key: jax.Array,
) -> PyTree:
    """The sum of `gradient` over all micro-batches, with one of them in memory at a time."""
    micro_steps = next(iter(batch.values())).resolve_axis(MICRO)
    if micro_steps.size == 1:
        return gradient(trainable, {name: array[MICRO, 0] for name, array in batch.items()}, key)
    keys = hax.named(jax.random.split(key, micro_steps.size), (micro_steps, "key"))
    first = {name: array[MICRO, 0] for name, array in batch.items()}
    shapes = eqx.filter_eval_shape(gradient, trainable, first, key)
    zeros = zeros_like_tree(shapes, trainer.parameter_axis_mapping)

    def add(total: PyTree, micro: tuple[Batch, hax.NamedArray]) -> PyTree:
        micro_batch, micro_key = micro
        here = gradient(trainable, micro_batch, micro_key.array)
        total = jax.tree_util.tree_map(jnp.add, total, here)
        return hax.shard(total, trainer.parameter_axis_mapping)

    return hax.fold(add, micro_steps)(zeros, (dict(batch), keys))


def without_update(state: TrainerState) -> tuple[TrainerState, StepMetrics]:
    """The state after a step without trained tokens: only the step number changes, not weights or optimizer."""
    zero, rate = jnp.zeros((), jnp.float32), jnp.copy(state.opt_state[0].learning_rate)
    figures = {name: jnp.copy(figure) for name, figure in _skipped(state).items()}
    return dataclasses.replace(state, step=state.step + 1), StepMetrics(zero, zero, rate, figures)


def _skipped(state: TrainerState) -> Figures:
    """The number of steps skipped so far, if `skip_bad_steps` is on."""
    count = optax.tree_utils.tree_get(state.opt_state, "skipped_steps")
    return {} if count is None else {"skipped_steps": count}
