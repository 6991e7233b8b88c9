"""How the steps of a launch are carried out and how they ended, and who hears of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from marin_sft.errors import InfrastructureLoss
from marin_sft.execution.commits import Commit, Consumed
from marin_sft.execution.plan import PlanItem
from marin_sft.execution.step_state import Failure


@dataclass(frozen=True)
class Policy:
    """beat_timeout: seconds without a beat after which an owner is considered dead."""

    max_concurrent: int | None = None
    fail_fast: bool = False
    infrastructure_retries: int = 3
    beat_timeout: float = 90.0


Status = Literal["cached", "ran", "adopted", "failed", "blocked", "cancelled", "unneeded"]


@dataclass(frozen=True, eq=False)
class StepResult:
    """How a step of this launch ended.

    cached: an existing output was used.
    ran: this launch committed it.
    adopted: another launch committed it.
    failed: its attempt failed.
    blocked: an input failed.
    cancelled: it was not started, because of --fail_fast.
    unneeded: no step needed it.
    """

    item: PlanItem
    status: Status
    commit: Commit | None = None
    attempt: int | None = None
    seconds: float = 0.0
    failure: Failure | None = None


class Listener(Protocol):
    """Notified of events."""

    def started(self, item: PlanItem, claim: int) -> None: ...

    def waiting(self, item: PlanItem) -> None: ...

    def lost(self, item: PlanItem, loss: InfrastructureLoss) -> None:
        """An attempt was lost, and the next one begins."""

    def early(self, result: StepResult) -> None:
        """A step ended that used parts of one that has not. It counts, and `finished` follows, once that one commits
        the same."""

    def outdated(self, item: PlanItem, by: Consumed) -> None:
        """An input was committed with other parts than the step used: it runs again."""

    def finished(self, result: StepResult) -> None: ...
