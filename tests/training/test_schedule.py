import pytest

from marin_sft.errors import ConfigError
from marin_sft.training import optimizers
from marin_sft.training.sft import SFTConfig

STEPS, PEAK = 100, 1e-3


def config(**fields):
    sizes = {"train_batch_size": 1, "num_train_steps": STEPS, "learning_rate": PEAK}
    return SFTConfig(mixture="m", tokenized={}, base_model="b", **sizes, **{"lr_schedule": "linear", **fields})


def rates(**fields):
    schedule = optimizers.schedule(config(**fields), STEPS)
    return [float(schedule(step)) for step in (0, 5, 10, 55, 80, 90, 100)]


def test_a_linear_decay_over_all_steps_after_the_warmup():
    expected = [0, 0.5, 1, 0.5, 2 / 9, 1 / 9, 0]
    assert rates(warmup=0.1, min_lr_ratio=0.0) == pytest.approx([PEAK * share for share in expected])


def test_a_decay_at_the_end():
    expected = [0, 0.5, 1, 1, 1, 0.55, 0.1]
    assert rates(warmup=0.1, min_lr_ratio=0.1, decay=0.2) == pytest.approx([PEAK * share for share in expected])


@pytest.mark.parametrize("decay", [0.0, 1.5, -0.1])
def test_a_decay_is_a_part_of_the_steps(decay):
    with pytest.raises(ConfigError, match="SFTConfig.decay"):
        config(decay=decay)


def test_a_constant_rate_has_no_decay():
    with pytest.raises(ConfigError, match="decay = 0.2: expected None where lr_schedule is 'constant'"):
        config(decay=0.2, lr_schedule="constant")
