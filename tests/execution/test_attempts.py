"""How attempts of a step ended, from claims, records, failures and beats as they may be left behind."""

import json

import pytest

from marin_sft.execution.attempts import read_attempts
from marin_sft.execution.claims import attempt_path, take_claim, write_beat
from marin_sft.execution.step_state import Failure, read_state, write_failure
from marin_sft.execution.stores import open_store

STEP = "step-0123456789"
RECORD = {"payload": {}, "seconds": 7.0, "exit": "ok", "launch": {"run": "a-launch"}}


@pytest.fixture
def left(tmp_path):
    """Leaves attempts behind, and reads them."""
    store = open_store(str(tmp_path / "store"))

    def leave(record=None, failure=None, released=False):
        number = read_state(store, STEP).last_claim + 1
        claim = take_claim(store, STEP, number, 1, "f")
        if record is not None:
            store.replace(f"{attempt_path(store, STEP, number)}/.record.json", json.dumps(record).encode())
        if failure is not None:
            write_failure(store, STEP, number, Failure(failure, None, ""))
        if released:
            write_beat(store, STEP, claim, 1, None, released=True)

    return leave, lambda: read_attempts(store, STEP, read_state(store, STEP))


def test_how_each_ended(left):
    leave, read = left
    leave(failure="the worker died")  # its launch saw that; the worker could not write a record
    leave({**RECORD, "exit": "ValueError: no"})
    leave(RECORD)
    leave()  # a later claim has taken over
    leave(released=True)
    leave()
    found = read()
    assert [attempt.how for attempt in found] == ["failed", "failed", "ended", "lost", "lost", "running"]
    assert [attempt.error for attempt in found[:3]] == ["the worker died", "ValueError: no", None]
    assert [attempt.run for attempt in found[1:4]] == ["a-launch", "a-launch", None]
    assert found[2].seconds == 7.0 and found[3].seconds == 0.0 and found[5].ended is None


@pytest.mark.parametrize("damage", [{"seconds": float("inf")}, {"payload": 3}, {"inputs": {}}])
def test_a_damaged_record_counts_as_none(left, damage):
    leave, read = left
    leave({**RECORD, **damage}, failure="no")
    (found,) = read()
    assert (found.how, found.record, found.error) == ("failed", None, "no")
