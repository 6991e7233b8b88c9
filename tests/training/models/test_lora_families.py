"""Adapters in each family of models."""

from pathlib import Path

import equinox as eqx
import haliax as hax
import jax
import numpy as np
import pytest

from marin_sft.training.fakes import pack
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.loss import LossBatch, loss_arrays, nll
from marin_sft.training.models import levanter_model, lora, peft_directory
from marin_sft.training.models.adapted_weights import Merged
from marin_sft.training.models.model_directory import ModelDirectory, write_tensors
from tests.training.models.test_architectures import IDS, MODELS, saved


@pytest.fixture(
    scope="module", params=["llama, tied", "mistral", "qwen2", "gemma", "gemma2", "gemma3", "olmo2", "olmo3"]
)
def family(request, tmp_path_factory) -> tuple[str, LoraConfig]:
    """A model of a family, and an adapter for it with random values."""
    path = tmp_path_factory.mktemp("family")
    saved(MODELS[request.param], path / "base")
    config = LoraConfig(r=3, alpha=8, use_dora=True)
    start = lora.adapter_tensors(levanter_model.load_model(str(path / "base"), lora=config))
    rng = np.random.default_rng(0)
    tensors = {name: tensor + rng.normal(0, 0.1, tensor.shape).astype(np.float32) for name, tensor in start.items()}
    (path / "adapter").mkdir()
    peft_directory.write_adapter(str(path / "adapter"), peft_directory.Adapter(config, tensors), ModelDirectory(path))
    return str(path / "base"), LoraConfig(adapter_path=str(path / "adapter"), dropout=0.5)


def test_each_family_is_adapted_as_it_is_merged(family, tmp_path):
    path, config = family
    adapter = peft_directory.read_adapter(config.adapter_path)
    assert len(peft_directory.layers_of(adapter.tensors)) == 3 * 7
    base = ModelDirectory(path).tensors()
    (tmp_path / "config.json").write_bytes(Path(path, "config.json").read_bytes())
    write_tensors(str(tmp_path), Merged(base, adapter, base))
    adapted = levanter_model.load_model(path, lora=config)
    ours, merged = (levanter_model.logits(model, IDS) for model in (adapted, levanter_model.load_model(str(tmp_path))))
    np.testing.assert_allclose(ours, merged, atol=1e-3)
    assert np.abs(ours - levanter_model.logits(levanter_model.load_model(path), IDS)).max() > 0.1


def test_each_family_hands_its_layers_a_key_for_dropout(family, monkeypatch):
    path, config = family
    model, rates, dropout = levanter_model.load_model(path, lora=config), [], lora.hnn.dropout

    def counted(x, rate, *, key, inference):
        rates.append(rate)
        return dropout(x, rate, key=key, inference=inference)

    monkeypatch.setattr(lora.hnn, "dropout", counted)
    arrays = loss_arrays(pack([[[3, 4, 5, 6]]], 8))
    batch = LossBatch(**{name: hax.named(array, ("batch", "position")) for name, array in arrays.items()})
    eqx.filter_eval_shape(nll, model, batch, key=jax.random.PRNGKey(0))
    # All layers of a model are traced as one, unless they differ.
    assert rates.count(0.5) in (7, 7 * 3)
    rates.clear()
    eqx.filter_eval_shape(nll, model, batch)
    assert rates.count(0.5) == 0
