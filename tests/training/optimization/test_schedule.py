import math

import pytest
import torch
import transformers

from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training.length import num_steps_of
from marin_sft.training.optimization.schedules import schedule
from marin_sft.training.sft_config import SFTConfig

STEPS, PEAK = 100, 1e-3
POINTS = (0, 5, 10, 55, 80, 90, 100)


def config(**fields):
    sizes = {"train_batch_size": 1, "num_train_steps": STEPS, "learning_rate": PEAK}
    return SFTConfig(mixture="m", tokenized={}, base_model="b", **{**sizes, "lr_schedule": "linear", **fields})


def rates(points=POINTS, num_steps=STEPS, **fields):
    rate = schedule(config(**fields), num_steps)
    return [float(rate(step)) for step in points]


def shares(*expected):
    return pytest.approx([PEAK * share for share in expected], rel=1e-5, abs=1e-12)


def test_a_linear_decay_over_all_steps_after_the_warmup():
    assert rates(warmup=0.1, min_lr_ratio=0.0) == shares(0, 0.5, 1, 0.5, 2 / 9, 1 / 9, 0)


@pytest.mark.parametrize("decay", [0.2, 20])
@pytest.mark.parametrize("lr_schedule", ["linear", "wsd"])
def test_a_decay_at_the_end(decay, lr_schedule):
    expected = shares(0, 0.5, 1, 1, 1, 0.55, 0.1)
    assert rates(warmup=0.1, min_lr_ratio=0.1, decay=decay, lr_schedule=lr_schedule) == expected


def test_wsd_decays_over_the_last_tenth():
    points = (0, 50, 90, 95, 100)
    assert rates(points, warmup=0.0, min_lr_ratio=0.0, lr_schedule="wsd") == shares(1, 1, 1, 0.5, 0)


@pytest.mark.parametrize("num_steps", [2, 5, 9, 12])
def test_a_part_of_few_steps_decays_all_the_same(num_steps):
    """The last step is below the peak, and what comes after it would be at the floor."""
    for decay in (None, 0.05):
        fields = {"warmup": 0.0, "min_lr_ratio": 0.0, "lr_schedule": "wsd", "decay": decay}
        assert rates((num_steps - 2, num_steps - 1, num_steps), num_steps, **fields) == shares(1, 0.5, 0)


@pytest.mark.parametrize(("warmup", "steps"), [(0.29, 29), (0.57, 57), (1 / 3, 33)])
def test_a_fraction_is_what_it_looks_like(warmup, steps):
    """In floats 0.29 * 100 is just below 29."""
    assert rates((steps - 1, steps), lr_schedule="constant", warmup=warmup) == shares(1 - 1 / steps, 1)


@pytest.mark.parametrize(
    ("epochs", "rows", "batch_size", "steps"),
    [
        (1.1, 100, 10, 11),
        (2.2, 100, 10, 22),
        (0.55, 100, 1, 55),
        (2 / 3, 300, 1, 200),
        (1.01, 100, 10, 11),
        (1e-9, 1, 1, 1),
    ],
)
def test_steps_of_epochs(epochs, rows, batch_size, steps):
    """A step that is begun counts, but not one that the rounding of floats makes."""
    fields = {"num_train_steps": None, "num_train_epochs": epochs, "train_batch_size": batch_size}
    assert num_steps_of(config(**fields), rows) == steps


def test_half_a_cosine():
    def share(step):
        return 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 10) / 90)) / 2

    expected = shares(0, 0.5, *(share(step) for step in POINTS[2:]))
    assert rates(lr_schedule="cosine", warmup=10, min_lr_ratio=0.1) == expected


def test_constant():
    assert rates(lr_schedule="constant", warmup=10) == shares(0, 0.5, 1, 1, 1, 1, 1)


@pytest.mark.parametrize("warmup", [0, 10])
def test_inverse_square_root(warmup):
    timescale = warmup or 10_000
    expected = [step / 10 if step < warmup else math.sqrt(timescale / (timescale + step - warmup)) for step in POINTS]
    assert rates(lr_schedule="inv_sqrt", warmup=warmup, min_lr_ratio=0.0) == shares(*expected)
    floored = rates((10_000,), lr_schedule="inv_sqrt", warmup=10, min_lr_ratio=0.5, num_steps=10_001)
    assert floored == shares(0.5)


@pytest.mark.parametrize("lr_schedule", ["linear", "cosine", "inv_sqrt", "wsd"])
def test_as_transformers_has_it(lr_schedule):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    build = {
        "linear": transformers.get_linear_schedule_with_warmup,
        "cosine": transformers.get_cosine_schedule_with_warmup,
        "inv_sqrt": transformers.get_inverse_sqrt_schedule,
        "wsd": transformers.get_wsd_schedule,
    }[lr_schedule]
    lengths = {"inv_sqrt": {}, "wsd": {"num_decay_steps": 30, "num_training_steps": STEPS, "decay_type": "linear"}}
    theirs = build(optimizer, num_warmup_steps=10, **lengths.get(lr_schedule, {"num_training_steps": STEPS}))
    expected = []
    for _ in range(STEPS):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    decay = 30 if lr_schedule == "wsd" else None
    ours = rates(range(STEPS), lr_schedule=lr_schedule, warmup=10, decay=decay, min_lr_ratio=0.0)
    assert ours == pytest.approx(expected, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("lr_schedule", ["linear", "cosine", "wsd"])
def test_the_floor_as_a_rate(lr_schedule):
    assert rates((STEPS,), lr_schedule=lr_schedule, learning_rate_end=7e-4) == shares(0.7)


def test_parts_in_steps_that_do_not_fit():
    with pytest.raises(ConfigError, match="warmup = 100: expected with decay = 20 at most num_train_steps = 100"):
        config(warmup=100, decay=20)
    with pytest.raises(TrainingError, match=r"warmup = 80 and decay = None take 80 \+ .* training has 60"):
        schedule(config(warmup=80, num_train_steps=None, num_train_epochs=1), 60)
    with pytest.raises(TrainingError, match=r"take 40 \+ 30 steps, but training has 60"):
        schedule(config(warmup=40, decay=30, num_train_steps=None, num_train_epochs=1), 60)
    assert rates((0, 50, 60), num_steps=60, warmup=0.5, decay=0.9, min_lr_ratio=0.0) == shares(0, 1 / 3, 0)


@pytest.mark.parametrize("field", ["warmup", "decay"])
@pytest.mark.parametrize("value", [1.5, -0.1, -3, True, "10"])
def test_a_part_is_steps_or_a_fraction_of_them(field, value):
    with pytest.raises(ConfigError, match=f"SFTConfig.{field} = "):
        config(**{field: value})


@pytest.mark.parametrize("lr_schedule", ["constant", "inv_sqrt"])
def test_some_have_no_decay(lr_schedule):
    with pytest.raises(ConfigError, match=f"decay = 0.2: expected None where lr_schedule is '{lr_schedule}'"):
        config(decay=0.2, lr_schedule=lr_schedule)


def test_one_floor():
    with pytest.raises(ConfigError, match="min_lr_ratio = 0.5: expected no value, because learning_rate_end"):
        config(min_lr_ratio=0.5, learning_rate_end=1e-4)
    with pytest.raises(ConfigError, match="min_lr_ratio = 0.5: expected no value: lr_schedule = 'constant'"):
        config(min_lr_ratio=0.5, lr_schedule="constant")
    with pytest.raises(ConfigError, match="learning_rate_end = 0.01: expected from 0 to learning_rate"):
        config(learning_rate_end=1e-2)
    with pytest.raises(ConfigError, match="None where lr_schedule is 'constant'"):
        config(learning_rate_end=1e-4, lr_schedule="constant")
