"""How attention is computed and what is recomputed change nothing but rounding; what cannot run says so."""

import equinox as eqx
import haliax as hax
import jax
import numpy as np
import pytest
from haliax.nn.scan import ScanCheckpointPolicy
from levanter.layers.attention import AttentionBackend

from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training.devices import ATTENTION_BACKENDS, CHECKPOINTING
from marin_sft.training.fakes import pack
from marin_sft.training.loss import LossBatch, loss_arrays, nll
from marin_sft.training.models import levanter_model
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


@pytest.mark.parametrize("policy", [True, "recompute", "save_attention", "save_products", "save_all", "nested"])
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
