import equinox as eqx
import haliax as hax
import jax
import numpy as np
import pytest
import torch

from marin_sft.errors import TrainingError
from marin_sft.training.fakes import FakeBatch, pack
from marin_sft.training.loss import LossBatch, loss_arrays, nll
from marin_sft.training.models import levanter_model
from marin_sft.training.neftune import with_noise
from marin_sft.training.sft_config import Terms
from tests.training.models.test_architectures import MODELS

A, B, C = [5, 9, 12, 7], [30, 31, 8], [20, 4, 6, 19, 11, 40, 3]


def loss_of(model, batch: FakeBatch) -> float:
    return float(nll(model, on_devices(batch)))


def on_devices(batch: FakeBatch) -> LossBatch:
    return LossBatch(**{name: hax.named(array, ("batch", "position")) for name, array in loss_arrays(batch).items()})


@pytest.fixture(scope="module")
def model(base_model):
    return levanter_model.load_model(base_model)


def test_packing_changes_nothing(model):
    packed, apart = pack([[A, B], [C]], 16), pack([[A], [B], [C]], 8)
    assert packed.trained_tokens == apart.trained_tokens == 11
    assert loss_of(model, packed) == pytest.approx(loss_of(model, apart), abs=1e-6)
    assert loss_of(model, pack([[A, B], [C]], 16)) != pytest.approx(loss_of(model, pack([[A + B], [C]], 16)), abs=1e-3)


def test_it_is_the_mean_over_trained_tokens(model):
    batch = pack([[A, C]], 16)
    logits = [np.asarray(levanter_model.logits(model, np.array([doc], np.int32)))[0] for doc in (A, C)]
    log_probs = [
        jax.nn.log_softmax(row[i])[doc[i + 1]]
        for doc, row in zip((A, C), logits, strict=True)
        for i in range(len(doc) - 1)
    ]
    assert loss_of(model, batch) == pytest.approx(-float(np.mean(log_probs)), abs=1e-5)


def test_untrained_tokens_and_padding_do_not_count(model):
    batch = pack([[A, B]], 16)
    batch.loss_weight[0, 4:] = 0
    assert loss_of(model, batch) == pytest.approx(loss_of(model, pack([[A]], 16)), abs=1e-6)
    batch.loss_weight[:] = 0
    assert loss_of(model, batch) == 0


def test_z_loss_adds_the_square_of_the_log_normaliser(model):
    batch = pack([[A, C]], 16)
    normalisers = [
        jax.nn.logsumexp(row[i])
        for doc in (A, C)
        for row in [np.asarray(levanter_model.logits(model, np.array([doc], np.int32)))[0]]
        for i in range(len(doc) - 1)
    ]
    added = float(nll(model, on_devices(batch), Terms(z_loss_weight=0.1))) - loss_of(model, batch)
    assert added == pytest.approx(0.1 * float(np.mean(np.square(normalisers))), abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.1, 0.7])
def test_label_smoothing_is_that_of_torch(model, smoothing):
    logits = [torch.tensor(np.asarray(levanter_model.logits(model, np.array([doc], np.int32)))[0]) for doc in (A, B, C)]
    predicted = torch.cat([row[:-1] for row in logits])
    targets = torch.tensor(A[1:] + B[1:] + C[1:])
    expected = torch.nn.functional.cross_entropy(predicted, targets, label_smoothing=smoothing)
    batch = on_devices(pack([[A, B], [C]], 16))
    assert float(nll(model, batch, Terms(label_smoothing=smoothing))) == pytest.approx(expected.item(), abs=2e-6)
    plain = torch.nn.functional.cross_entropy(predicted, targets).item()
    assert abs(expected.item() - plain) > 1e-4

    def plain_loss(model):
        """The definition, on the logits of each document."""
        total = 0.0
        for doc in (A, B, C):
            log_probs = jax.nn.log_softmax(levanter_model.logits(model, np.array([doc], np.int32))[0][:-1])
            right = log_probs[np.arange(len(doc) - 1), np.array(doc[1:])]
            total -= ((1 - smoothing) * right + smoothing * log_probs.mean(-1)).sum()
        return total / len(targets)

    found = eqx.filter_grad(lambda model: nll(model, batch, Terms(label_smoothing=smoothing)))(model)
    expected = eqx.filter_grad(plain_loss)(model)
    for one, other in zip(*map(jax.tree_util.tree_leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_label_smoothing_refuses_capped_logits():
    gemma2 = levanter_model.random_model(MODELS["gemma2"].to_dict(), seed=0)
    with pytest.raises(TrainingError, match="label_smoothing: this model caps its logits"):
        nll(gemma2, on_devices(pack([[A]], 8)), Terms(label_smoothing=0.1))


def test_the_noise_is_that_of_the_paper(model):
    batch, alpha, d = on_devices(pack([[A, B], [C]], 16)), 5.0, model.Embed.size
    key = jax.random.PRNGKey(7)
    noisy = with_noise(model, batch.segment_ids, alpha, key)
    clean = model.embeddings.embed(batch.tokens).array
    noise = np.asarray(noisy.embeddings.embed(batch.tokens).array - clean)
    uniform = np.asarray(jax.random.uniform(key, noise.shape, minval=-1, maxval=1))
    lengths = np.array([[len(A)] * len(A) + [len(B)] * len(B) + [0] * 9, [len(C)] * len(C) + [0] * 9])
    scale = np.where(lengths > 0, alpha / np.sqrt(np.maximum(lengths, 1) * d), 0)[..., None]
    np.testing.assert_allclose(noise, uniform * scale, atol=1e-6)


def test_noise_is_only_where_there_is_a_key(model):
    batch, terms = on_devices(pack([[A, B], [C]], 16)), Terms(neftune_noise_alpha=5.0)
    noisy = [float(nll(model, batch, terms, jax.random.PRNGKey(seed))) for seed in (0, 0, 1)]
    clean = float(nll(model, batch))
    assert noisy[0] == noisy[1] != noisy[2] and abs(noisy[0] - clean) > 1e-4
    assert float(nll(model, batch, terms)) == clean
    assert float(nll(model, batch, Terms(), jax.random.PRNGKey(0))) == clean
