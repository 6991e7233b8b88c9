"""Levanter's Trainer as we set it up, arrays on its devices, and checkpoints of the train state."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import jmp
import levanter.checkpoint
import numpy as np
import optax
from jax.experimental.array_serialization.serialization import run_serialization
from levanter.models.lm_model import LmHeadModel
from levanter.optim.model_averaging import ModelAveraging
from levanter.tracker import NoopConfig
from levanter.trainer import Trainer, TrainerConfig
from levanter.trainer_state import TrainerState, saveable_training_mask

from marin_sft import disk
from marin_sft.errors import TrainingError
from marin_sft.paths import unchained
from marin_sft.training import host_memory, processes
from marin_sft.training.axes import BATCH, MICRO, POSITION
from marin_sft.training.compilation_cache import use_compilation_cache
from marin_sft.training.devices import micro_batches_of
from marin_sft.training.mesh import check_rows, levanter_mesh
from marin_sft.training.objective import Layout
from marin_sft.training.precision import policy

if TYPE_CHECKING:
    from jaxtyping import PyTree


def trainer_config(*, precision: str, seed: int, mesh: object = None) -> TrainerConfig:
    """Levanter's settings for the available devices: mesh and number types. Its own loop is not used.

    `mesh`: see `mesh.mesh_config`. None: each device has different rows, and a slice of the weights.

    Raises:
        TrainingError: the mesh does not fit the devices.
    """
    use_compilation_cache()
    return TrainerConfig(
        id="train",
        seed=seed,
        mp=jmp.get_policy(policy(precision)),
        mesh=levanter_mesh(mesh),
        tracker=NoopConfig(),
        require_accelerator=False,
        load_checkpoint=False,
    )


def build_trainer(config: TrainerConfig, optimizer: optax.GradientTransformation) -> Trainer:
    """We use the context (mesh, axis mappings) and the state of Levanter's Trainer; the step is `train_step`'s."""

    def no_loss(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError("train_step.step_function takes the steps, with a loss of its own")

    return Trainer(config, optimizer, no_loss, add_default_hooks=False)


def layout(
    config: TrainerConfig, batch_size: int, per_device_parallelism: int, gradient_accumulation_steps: int | None = None
) -> Layout:
    """How a batch of `batch_size` examples is spread. The other two: see `DeviceSettings`.

    Raises:
        TrainingError: the batch does not divide over the devices, or not into micro-batches.
    """
    devices = config.data_axis_size
    micro_batches = micro_batches_of(batch_size, devices, per_device_parallelism, gradient_accumulation_steps)
    if isinstance(micro_batches, str):
        raise TrainingError(micro_batches)
    return Layout(devices, micro_batches)


def initial_state(
    trainer: Trainer,
    model: LmHeadModel,
    seed: int,
    reference: ModelAveraging | None = None,
    trainable: PyTree = True,
) -> TrainerState:
    """The train state before step 0. `model` is donated: do not use it afterwards.

    `reference`: to update with each step, see `Objective.reference`. `trainable`: True, or a tree like `model` with a
    boolean for each array. Arrays that are not trained are held in the compute type, and not saved.
    """
    state = trainer.initial_state(jax.random.PRNGKey(seed), model=model, is_trainable=trainable)
    return dataclasses.replace(state, model_averaging=reference)


def abstract_state(
    trainer: Trainer, model: LmHeadModel, seed: int, reference: ModelAveraging | None = None, trainable: PyTree = True
) -> TrainerState:
    """The eval_shape of `initial_state`, with the layout of its arrays on the devices."""

    def made(model: LmHeadModel, reference: ModelAveraging | None) -> TrainerState:
        key = jax.random.PRNGKey(seed)
        state = TrainerState.init(trainer.optimizer, model, key=key, is_trainable=trainable, mp=trainer.mp)
        return dataclasses.replace(state, model_averaging=reference)

    shapes = eqx.filter_eval_shape(made, model, reference)
    layouts = hax.partitioning.infer_resource_partitions(shapes, trainer.parameter_axis_mapping)

    def placed(shape: PyTree, layout: jax.sharding.Sharding | None) -> PyTree:
        if not isinstance(shape, jax.ShapeDtypeStruct):
            return shape
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=layout)

    def placed_all(node: PyTree, layout: jax.sharding.Sharding | None) -> PyTree:
        return jax.tree_util.tree_map(lambda shape: placed(shape, layout), node)

    return hax.tree_util.tree_map(placed_all, shapes, layouts)


@jax.jit
def _finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))


def all_finite(state: TrainerState) -> bool:
    """Whether all weights and the whole optimizer state are finite."""
    return bool(_finite([leaf for leaf in jax.tree_util.tree_leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]))


def process_rows(trainer: Trainer, rows: int) -> tuple[int, int]:
    """(part, parts): this process's devices work on the `part`-th of `parts` equal slices of a micro-batch's rows."""
    sharding = _sharding(trainer, (hax.Axis(BATCH, rows),))
    places = [index[0].indices(rows) for index in sharding.addressable_devices_indices_map((rows,)).values()]
    first, end = min(start for start, _, _ in places), max(stop for _, stop, _ in places)
    count = end - first
    return (first // count, rows // count) if first % count == 0 == rows % count else (0, 1)


def to_devices(
    trainer: Trainer, arrays: Mapping[str, np.ndarray], part: int = 0, parts: int = 1
) -> dict[str, hax.NamedArray]:
    """Host arrays as global arrays. [micro, batch, position] arrays are spread by rows, and each process passes its
    slice. [micro, anything] arrays are replicated on each device.

    `part`, `parts`: the slice of this process, see `process_rows`.
    """

    def place(name: str, array: np.ndarray) -> hax.NamedArray:
        axes = _batch_axes(trainer, name, array.shape, parts)
        return _placed(trainer, array, axes, part * array.shape[1] if array.ndim > 2 else 0)

    return {name: place(name, array) for name, array in arrays.items()}


def abstract_batch(trainer: Trainer, arrays: Mapping[str, np.ndarray]) -> dict[str, hax.NamedArray]:
    """The eval_shape of `to_devices`."""

    def shape_of(name: str, array: np.ndarray) -> hax.NamedArray:
        axes = _batch_axes(trainer, name, array.shape, 1)
        return hax.NamedArray(jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=_sharding(trainer, axes)), axes)

    return {name: shape_of(name, array) for name, array in arrays.items()}


def _batch_axes(trainer: Trainer, name: str, shape: tuple[int, ...], parts: int) -> tuple[hax.Axis, ...]:
    """Of the global array, for a slice with this shape."""
    micro = hax.Axis(MICRO, shape[0])
    if len(shape) == 2:
        return micro, hax.Axis(name, shape[1])
    check_rows(trainer.device_mesh.shape["context"], shape[2])
    return micro, hax.Axis(BATCH, shape[1] * parts), hax.Axis(POSITION, shape[2])


def _placed(trainer: Trainer, array: np.ndarray, axes: tuple[hax.Axis, ...], first_row: int) -> hax.NamedArray:
    def shard(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[1].indices(axes[1].size)
        return array[index[0], start - first_row : stop - first_row, *index[2:]]

    shape = tuple(axis.size for axis in axes)
    return hax.named(jax.make_array_from_callback(shape, _sharding(trainer, axes), shard), axes)


def _sharding(trainer: Trainer, axes: tuple[hax.Axis, ...]) -> jax.sharding.NamedSharding:
    return hax.partitioning.sharding_for_axis(axes, trainer.compute_axis_mapping, trainer.device_mesh)


def copied(saved: TrainerState) -> TrainerState | None:
    """A copy in the memory of the hosts, since the next step overwrites the arrays of a state. None: it does not fit
    there."""
    arrays, rest = eqx.partition(saved, eqx.is_array)
    leaves = jax.tree_util.tree_leaves(arrays)
    if not host_memory.has_room(sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards)):
        return None
    try:
        found = jax.block_until_ready(jax.tree_util.tree_map(_copied, arrays))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
    return eqx.combine(found, rest)


def _copied(array: jax.Array) -> jax.Array:
    kind = (
        "pinned_host"  # from where TensorStore writes without another copy; on CPUs, too, not the device's own memory
    )
    shards = [
        jax.device_put(shard.data, jax.sharding.SingleDeviceSharding(shard.device, memory_kind=kind))
        for shard in array.addressable_shards
    ]
    return jax.make_array_from_single_device_arrays(array.shape, array.sharding.with_memory_kind(kind), shards)


class _Writes:
    """What Levanter needs of a checkpoint manager, without its waiting for other processes, of five minutes at most."""

    def serialize(
        self, arrays: Sequence[jax.Array], specs: Sequence[object], *, on_commit_callback: Callable[[], None]
    ) -> None:
        run_serialization(arrays, specs)
        on_commit_callback()


def save_state(path: str, saved: TrainerState, step: int) -> None:
    """Write this process's part of `saved`, the `saveable_state` of a train state, to the directory `path`. Returns
    when it is on disk."""
    levanter.checkpoint.save_checkpoint(saved, step, unchained(path), manager=_Writes())
    if processes.are_several():
        disk.sync(path)


class Room:
    """Loads train states that have the structure of `like`. The first load frees the arrays of `like`, except weights
    that are not trained, which are kept."""

    def __init__(self, like: TrainerState) -> None:
        self._saved, self._kept = eqx.partition(like, saveable_training_mask(like, like.is_trainable))
        self._shapes: TrainerState | None = None

    def load(self, path: str, trainer: Trainer) -> TrainerState:
        """The train state saved at `path`.

        Raises:
            TrainingError: an array is missing, unreadable, or has another shape or type.
        """
        if self._shapes is None:
            self._shapes, self._saved = _release(self._saved), None
        # Else it warns about each field that is None in the exemplar.
        logging.getLogger("levanter.tensorstore_serialization").setLevel(logging.ERROR)
        try:
            state = levanter.checkpoint.load_checkpoint(
                self._shapes, unchained(path), axis_mapping=trainer.parameter_axis_mapping, mesh=trainer.device_mesh
            )
        except Exception as error:
            raise TrainingError(f"cannot restore the train state: {error}") from error
        for expected, got in zip(
            jax.tree_util.tree_leaves(self._shapes), jax.tree_util.tree_leaves(state), strict=True
        ):
            if (expected.shape, expected.dtype) != (got.shape, got.dtype):
                raise TrainingError(
                    f"cannot restore the train state: got an array of {got.dtype}{list(got.shape)}, "
                    f"expected {expected.dtype}{list(expected.shape)}"
                )
        return eqx.combine(state, self._kept)


def _release(state: TrainerState) -> TrainerState:
    """The shapes of `state`. Its arrays are freed: resuming must not need memory for two train states."""

    def release(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        leaf.delete()
        return shape

    return jax.tree_util.tree_map(release, state)
