import pytest

from marin_sft.errors import ConfigError
from marin_sft.training.stops import EarlyStopping, TimeLimit, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90min", 5400),
        ("23h", 82800),
        ("2h30m", 9000),
        ("2h 30min", 9000),
        ("1d 12h", 129600),
        ("1.5 hours", 5400),
        ("45s", 45),
        ("2 Days", 172800),
    ],
)
def test_durations_are_read_whole(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "2h30", "h", "2x", "0h", "-1h", "2h,30m", "1:30"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match="expected a time above 0 with its units"):
        parse_duration(text)


def stops_at(stopping, values):
    """The number of the first evaluation after which it ends."""
    for count in range(1, len(values) + 1):
        if stopping.reason([(10 * (i + 1), value) for i, value in enumerate(values[:count])]):
            return count
    return None


def test_it_ends_after_so_many_evaluations_without_a_better_one():
    stopping = EarlyStopping(steps=10, patience=2)
    assert stops_at(stopping, [3.0, 2.0, 2.5, 1.9, 1.9, 1.95]) == 6
    assert stops_at(stopping, [3.0, 2.0, 2.5, 1.9, 1.9]) is None
    assert stops_at(EarlyStopping(steps=10, patience=2, min_delta=0.2), [3.0, 2.0, 1.9, 1.85, 1.84]) == 4
    rising = EarlyStopping(steps=10, patience=1, metric="rewards/accuracies", greater_is_better=True)
    assert stops_at(rising, [0.5, 0.6, 0.6]) == 3
    assert stops_at(stopping, [float("nan"), float("nan")]) == 2


def test_it_says_what_was_best_and_when():
    reason = EarlyStopping(steps=10, patience=1).reason([(10, 2.0), (20, 1.5), (30, 1.75)])
    assert (
        reason
        == "validation/loss is 1.75, and was 1.5 at step 20: not better by more than min_delta = 0 in 1 evaluations"
    )


def test_values_that_cannot_be_used_are_refused():
    for fields in (
        {"steps": 0, "patience": 1},
        {"steps": 1, "patience": 0},
        {"steps": 1, "patience": 1, "min_delta": -1},
    ):
        with pytest.raises(ConfigError, match="EarlyStopping"):
            EarlyStopping(**fields)


def test_a_limit_of_time():
    assert TimeLimit(0.0).over()
    assert not TimeLimit(3600.0).over() and not TimeLimit(None).over()
