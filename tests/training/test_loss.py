import haliax as hax
import jax
import numpy as np
import pytest
from levanter.optim import AdamConfig

from marin_sft.training import levanter_model, levanter_trainer
from marin_sft.training.fakes import FakeBatch, pack
from marin_sft.training.loss import LossBatch, loss_arrays, nll

A, B, C = [5, 9, 12, 7], [30, 31, 8], [20, 4, 6, 19, 11, 40, 3]


def loss_of(model, batch: FakeBatch) -> float:
    arrays = {name: hax.named(array, ("batch", "position")) for name, array in loss_arrays(batch).items()}
    return float(nll(model, LossBatch(**arrays)))


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


def first_step(base_model: str, batch: FakeBatch, per_device_parallelism: int) -> tuple[float, list[np.ndarray]]:
    """Loss and gradient of one step: Adam's first moment after it is the gradient times 1 - beta1."""
    trainer = levanter_trainer.build_trainer(
        nll,
        AdamConfig(beta1=0.0, max_grad_norm=None, weight_decay=0.0),
        batch_size=len(batch.tokens),
        num_train_steps=2,
        per_device_parallelism=per_device_parallelism,
        precision="fp32",
        seed=0,
    )
    with trainer:
        state = levanter_trainer.initial_state(trainer, levanter_model.load_model(base_model), 0)
        info = trainer.train_step(state, LossBatch(**levanter_trainer.to_devices(trainer, loss_arrays(batch))))
        adam = info.state.opt_state[1].inner_state[0]
        return info.loss, [np.asarray(leaf) for leaf in jax.tree_util.tree_leaves(adam.mu)]


def test_loss_and_gradient_do_not_depend_on_the_micro_batch(base_model):
    # Rows with 1, 9, 3 and 6 trained tokens: a mean of means would be another number.
    batch = pack([[A[:2]], [A, C], [A], [C]], 16)
    whole_loss, whole = first_step(base_model, batch, -1)
    assert max(np.abs(leaf).max() for leaf in whole) > 1e-3
    for per_device_parallelism in (2, 1):
        loss, gradient = first_step(base_model, batch, per_device_parallelism)
        assert loss == pytest.approx(whole_loss, abs=1e-5)
        for one, other in zip(whole, gradient, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
