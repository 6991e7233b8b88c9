import dataclasses
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from marin_sft import progress
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training import levanter_trainer
from marin_sft.training.fakes import CountingBatches
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.tensor_names import names_of
from marin_sft.training.optimization import optimizers
from marin_sft.training.optimization.freezing import freezing
from marin_sft.training.sft import train
from marin_sft.training.sft_config import SFTConfig
from marin_sft.training.train_step import recording
from tests.training.small_runs import sft_config

FROZEN = r"embed_tokens|layers\.0\.|\.norm\.weight"
BATCHES = CountingBatches(vocab_size=40, batch_size=4, length=16)


def config_for(base_model: str, output="unused", *earlier, **changes) -> SFTConfig:
    constant = {"lr_schedule": "constant", "warmup": 0.0}
    fields = {**constant, "weight_decay": 0.1, "precision": "bf16", "steps_per_checkpoint": 2, **changes}
    return sft_config(base_model, output, *earlier, **fields)


def differ(one: dict, other: dict) -> set[str]:
    return {name for name in one if not np.array_equal(one[name], other[name])}


def test_names_are_those_of_the_checkpoint(base_model):
    names = names_of(base_model)
    stored = dict(ModelDirectory(base_model).tensors())
    assert sorted(name for some in names.values() for name in some) == sorted(stored)
    assert ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight") in names.values()


class Preempted(Exception):
    pass


def test_what_is_frozen_keeps_its_bits_and_training_resumes(base_model, tmp_path):
    frozen = config_for(base_model, tmp_path / "whole", frozen_parameters=FROZEN, precision="bf16")
    train(frozen, BATCHES)
    before, after = (dict(ModelDirectory(path).tensors()) for path in (base_model, tmp_path / "whole" / "model"))
    assert differ(before, after) == {name for name in before if not re.search(FROZEN, name)}
    assert any(np.any(before[name] != before[name].astype(jnp.bfloat16)) for name in before)  # would have been seen

    def stop(update):
        if update.done == 3:
            raise Preempted

    with progress.listening(stop), pytest.raises(Preempted):
        train(dataclasses.replace(frozen, output_path=str(tmp_path / "1"), steps_per_log=1), BATCHES)
    again = dataclasses.replace(
        frozen, output_path=str(tmp_path / "2"), earlier_attempts=(str(tmp_path / "1"),), steps_per_checkpoint=None
    )
    train(again, BATCHES)
    assert not differ(after, dict(ModelDirectory(str(tmp_path / "2" / "model")).tensors()))
    unlike = dataclasses.replace(again, frozen_parameters="embed")
    with pytest.raises(TrainingError, match="frozen_parameters was .*embed_tokens.* and is 'embed'"):
        train(unlike, BATCHES)


def test_what_is_never_trained_has_no_optimizer_state(base_model):
    frozen = freezing(config_for(base_model, frozen_parameters=r"embed_tokens|mlp"))
    settings = levanter_trainer.trainer_config(precision="fp32", seed=0)
    trainer = levanter_trainer.build_trainer(settings, frozen.applied_to(optax.chain(optax.adam(1e-3))))
    with trainer:
        model = levanter_model.load_model(base_model, axis_mapping=trainer.parameter_axis_mapping)
        shapes = {path: leaf.shape for path, leaf in by_path(model).items()}
        state = levanter_trainer.initial_state(trainer, model, 0, trainable=frozen.trainable(model))
    moments = {leaf.shape for leaf in jax.tree_util.tree_leaves(state.opt_state) if leaf.ndim}
    never = {shape for path, shape in shapes.items() if "mlp" in path or "embeddings" in path}
    assert never and not never & moments


def by_path(model) -> dict:
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, eqx.is_array))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def weights_after_each(config: SFTConfig, updates: int) -> list[dict]:
    frozen = freezing(config)
    rate = optax.constant_schedule(1e-2)
    optimizer = frozen.applied_to(optax.chain(recording(rate), optimizers.optimizer(config, 10)))
    weights = eqx.filter(levanter_model.load_model(config.base_model), eqx.is_inexact_array)
    state, found = optimizer.init(weights), [levanter_model.model_tensors(weights)]
    for _ in range(updates):
        change, state = optimizer.update(jax.tree_util.tree_map(jnp.ones_like, weights), state, weights)
        weights = optax.apply_updates(weights, change)
        found.append(levanter_model.model_tensors(weights))
    return found


def test_layers_are_unfrozen_one_after_another(base_model):
    thaws = {r"layers\.1\.": 1, r"layers\.0\.": 3}
    found = weights_after_each(config_for(base_model, frozen_parameters="embed", unfreeze=thaws), 4)
    first = {name for name in found[0] if "layers" not in name and "embed" not in name}
    layers = [{name for name in found[0] if f"layers.{i}." in name} for i in range(2)]
    changed = [differ(before, after) for before, after in zip(found, found[1:], strict=False)]
    assert changed == [first, first | layers[1], first | layers[1], first | layers[0] | layers[1]]


def test_the_gradient_norm_is_that_of_what_is_trained(base_model):
    config = config_for(base_model, frozen_parameters=r"embed|layers\.0\.", max_grad_norm=None)
    frozen = freezing(config)
    optimizer = frozen.applied_to(optax.chain(recording(optax.constant_schedule(1.0)), optax.sgd(1.0)))
    weights = eqx.filter(levanter_model.load_model(base_model), eqx.is_inexact_array)
    ones = jax.tree_util.tree_map(jnp.ones_like, weights)
    _, state = optimizer.update(ones, optimizer.init(weights), weights)
    trained = sum(
        tensor.size
        for name, tensor in levanter_model.model_tensors(weights).items()
        if not re.search(r"embed|layers\.0\.", name)
    )
    assert float(state[0].grad_norm) == pytest.approx(trained**0.5, rel=1e-5)


def test_patterns_that_are_wrong(base_model):
    with pytest.raises(
        TrainingError, match="frozen_parameters: 'layer_0' is in none of the .* names like lm_head|model"
    ):
        freezing(config_for(base_model, frozen_parameters="layer_0"))
    with pytest.raises(TrainingError, match="unfreeze: 'layer_0' is in none"):
        freezing(config_for(base_model, unfreeze={"layer_0": 3}))
    with pytest.raises(ConfigError, match="unfreeze = .*expected fewer updates than num_train_steps = 4"):
        config_for(base_model, unfreeze={"layers": 4})
    by_epochs = config_for(base_model, unfreeze={"layers": 4}, num_train_steps=None, num_train_epochs=1)
    with pytest.raises(TrainingError, match="training has 4 steps, so 'layers' would never be trained"):
        freezing(by_epochs, 4)
    assert freezing(by_epochs, 5) is not None
    with pytest.raises(TrainingError, match="no tensor is left to train at the start"):
        freezing(config_for(base_model, frozen_parameters="."))
    with pytest.raises(TrainingError, match="reinit_tokens = .* initialises rows that frozen_parameters"):
        freezing(config_for(base_model, frozen_parameters="embed", reinit_tokens=("w1",)))
    with pytest.raises(ConfigError, match="frozen_parameters = .*a regular expression"):
        config_for("base", frozen_parameters="(")
    with pytest.raises(ConfigError, match="unfreeze = .*a mapping of text to a whole number"):
        config_for("base", unfreeze={"layers": 0.5})
    assert freezing(config_for("base")) is None
