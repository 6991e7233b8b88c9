"""How attention is computed and what is recomputed change nothing but rounding; what cannot run says so."""

import importlib.util

import equinox as eqx
import haliax as hax
import jax
import numpy as np
import pytest
from haliax.nn.scan import ScanCheckpointPolicy
from levanter.layers.attention import AttentionBackend

from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training.attention import choice
from marin_sft.training.devices import ATTENTION_BACKENDS, CHECKPOINTING
from marin_sft.training.fakes import pack
from marin_sft.training.loss import LossBatch, loss_arrays, nll
from marin_sft.training.models import LlamaConfig, MistralConfig, levanter_model
from marin_sft.training.models.architectures import levanter_config
from marin_sft.training.models.recomputation import policy_for
from marin_sft.training.sft_config import SFTConfig

ROWS = pack([[[5, 9, 12, 7], [30, 31, 8]], [[20, 4, 6, 19, 11, 40, 3]]], 16)
BATCH = LossBatch(**{name: hax.named(array, ("batch", "position")) for name, array in loss_arrays(ROWS).items()})


def loss_and_gradient(base_model: str, **options) -> list[np.ndarray]:
    model = levanter_model.load_model(base_model, **options)
    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(lambda tree: nll(tree, BATCH)))(model)
    return [np.asarray(leaf) for leaf in (value, *jax.tree_util.tree_leaves(gradient))]


@pytest.fixture(scope="module")
def plain(base_model):
    return loss_and_gradient(base_model)


@pytest.mark.parametrize("options", [{"attention_backend": "jax_flash"}, {"attention_backend": "default"}])
def test_attention_backends_agree(base_model, plain, options):
    for one, other in zip(loss_and_gradient(base_model, **options), plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    "policy", [True, "recompute", "save_attention", "save_products", "save_all", "nested", "offload"]
)
def test_what_is_recomputed_changes_nothing(base_model, plain, policy):
    for one, other in zip(loss_and_gradient(base_model, gradient_checkpointing=policy), plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_what_does_not_run_here(base_model):
    with pytest.raises(TrainingError, match="attention_backend = 'splash': runs on tpu only, and the devices here are"):
        levanter_model.load_model(base_model, attention_backend="splash")
    with pytest.raises(TrainingError, match="attention_backend = 'nvte': runs on gpu only"):
        levanter_model.load_model(base_model, attention_backend="nvte")


def test_the_names_are_those_of_levanter():
    assert set(ATTENTION_BACKENDS) == {*AttentionBackend, "tokamax"}
    for name in CHECKPOINTING:
        ScanCheckpointPolicy._mk(policy_for(name))
    sizes = {"train_batch_size": 1, "num_train_steps": 1, "learning_rate": 1}
    for field in ("attention_backend", "gradient_checkpointing"):
        with pytest.raises(ConfigError, match=f"SFTConfig.{field} = 'flash': expected"):
            SFTConfig(mixture="m", tokenized={}, base_model="b", **sizes, **{field: "flash"})


def test_a_gpu_gets_the_fast_kernels_or_an_error(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    config = LlamaConfig(max_seq_len=8, hidden_dim=8, intermediate_dim=8, num_layers=1, num_heads=2, num_kv_heads=1)
    fields = config.hf_config(8)
    assert levanter_config(fields).attn_backend == levanter_config(fields, False, "tokamax").attn_backend
    assert levanter_config(fields).attn_backend == choice.TOKAMAX
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"the package tokamax; pip install 'marin_sft\[gpu\]', or .*jax_flash"):
        levanter_config(fields)
    with pytest.raises(TrainingError, match="needs the package transformer_engine; install it, or"):
        levanter_config(fields, False, "nvte")


def test_a_tpu_gets_its_kernel(monkeypatch):
    """By its name: then Levanter refuses what it cannot compute, instead of taking a slow path."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    config = MistralConfig(
        max_seq_len=8, hidden_dim=8, intermediate_dim=8, num_layers=1, num_heads=2, num_kv_heads=1, sliding_window=4
    )
    assert levanter_config(config.hf_config(8)).attn_backend == AttentionBackend.SPLASH
    with pytest.raises(TrainingError, match="attention_backend = 'tokamax': runs on gpu only, and the devices .* tpu"):
        levanter_config(config.hf_config(8), False, "tokamax")


def test_a_run_says_what_it_takes(base_model):
    assert (
        choice.told(levanter_model.load_model(base_model), None)
        == "block by block within documents; the default on 1 x cpu"
    )
    asked = levanter_model.load_model(base_model, attention_backend="jax_flash")
    assert choice.told(asked, "jax_flash") == "Levanter's jax_flash; asked for"
