"""What became of a step in a launch, from its state."""

import dataclasses

import pytest

from marin_sft.execution.claims import Claim
from marin_sft.execution.commits import Commit
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.step_state import Failure, StepState
from marin_sft.run.status import outcome

BEFORE, BEGUN, AFTER = "2026-01-01T00:00:00Z", 1767268800.0, "2026-01-01T20:00:00Z"  # begun at 12:00
FAILURE = Failure("no", None, "")


def state(commit=None, claim=None, **more):
    """commit, claim: when they were made."""
    made = commit and Commit(1, 1, "f", {}, None, (), None, commit)
    claimed = claim and Claim(2, 2, "f", ProcessIdentity.current(), claim)
    return StepState(commit=made, claim=claimed, last_claim=2, **more)


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (state(), "waiting"),
        (state(commit=BEFORE), "reused"),
        (state(commit=AFTER), "ran"),
        (state(claim=AFTER), "running"),
        (state(claim=BEFORE), "running"),  # by another launch
        (state(claim=AFTER, failure=FAILURE), "failed"),
        (state(claim=BEFORE, failure=FAILURE), "waiting"),  # this launch will run it again
        (state(claim=AFTER, owner_gone=True), "interrupted"),
        (state(commit=BEFORE, claim=AFTER), "running"),  # a forced rerun
        (state(commit=BEFORE, claim=AFTER, failure=FAILURE), "failed"),
        (state(commit=BEFORE, claim=BEFORE, failure=FAILURE), "reused"),
    ],
)
def test_while_the_launch_goes_on(state, word):
    assert outcome(state, None, BEGUN, going=True) == word
    assert outcome(state, "cached", BEGUN, going=True) == "reused", "what the launch recorded counts"


def test_after_a_launch_that_was_killed():
    assert outcome(state(), None, BEGUN, going=False) == "not run"
    failed = state(claim=BEFORE, failure=FAILURE)
    assert outcome(failed, None, BEGUN, going=False) == outcome(failed, None, None, going=False) == "failed"
    rerun = dataclasses.replace(failed, commit=state(commit=BEFORE).commit)
    assert outcome(rerun, None, None, going=True) == "ran"
