"""The steps of a launch that use parts of steps which have not ended: when they can begin, and what they use.

Such a step begins as soon as its parts are whole in the running attempt. Its result is held until the attempt's step
commits: only then it is known whether the parts that it used are those of the commit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator

from marin_sft.execution.claims import attempt_path
from marin_sft.execution.commits import Consumed
from marin_sft.execution.consumption import Consumption
from marin_sft.execution.graph import Node
from marin_sft.execution.patience import no_patience
from marin_sft.execution.plan import Action, PlanItem
from marin_sft.execution.store import Store


class EarlyUsers:
    """running: the attempt of each step that runs, here or in another launch. To be kept up to date."""

    def __init__(self, store: Store, consumption: Consumption) -> None:
        self.running: dict[Node, int] = {}
        self._store, self._consumption = store, consumption
        self._waiting: dict[Node, PlanItem] = {}
        self._used: dict[Node, dict[Node, tuple[int, Consumed]]] = {}  # of each that has begun early
        self._last_look = -math.inf

    def add(self, item: PlanItem) -> None:
        """The step waits for inputs."""
        if item.node.parts and item.action is not Action.IF_CHANGED:
            self._waiting[item.node] = item

    def __bool__(self) -> bool:
        """Whether a step may begin early."""
        return any(used in self.running for node in self._waiting for used in node.parts)

    def have_begun(self, node: Node) -> bool:
        return node in self._used

    def leave(self, node: Node) -> None:
        """The step no longer waits, or what it used early is no longer of interest."""
        self._waiting.pop(node, None)
        self._used.pop(node, None)

    def ready(self, open_inputs: dict[Node, set[Node]]) -> Iterator[PlanItem]:
        """The steps whose parts have become whole. open_inputs: the inputs of each that have not ended."""
        if not self or time.monotonic() - self._last_look < self._store.beat_seconds:
            return
        self._last_look = time.monotonic()
        for node, item in list(self._waiting.items()):
            if found := self._found(node, open_inputs[node]):
                self._used[node] = found
                del self._waiting[node]
                yield item

    @no_patience()  # the next look comes soon
    def _found(self, node: Node, missing: Collection[Node]) -> dict[Node, tuple[int, Consumed]] | None:
        found: dict[Node, tuple[int, Consumed]] = {}
        for used in missing:
            if used not in node.parts or used not in self.running:
                return None
            try:
                consumed = self._consumption.early(node, used, self.running[used])
            except OSError:
                return None
            if consumed is None:
                return None
            found[used] = self.running[used], consumed
        return found

    def consumed(self, node: Node) -> dict[str, Consumed]:
        """What the step used of inputs that had not ended, by directory."""
        return {consumed.directory: consumed for _, consumed in self._used.get(node, {}).values()}

    def path(self, node: Node, used: Node) -> str | None:
        """The output of the attempt whose parts the step uses; None: it uses those of a commit."""
        attempt, _ = self._used.get(node, {}).get(used, (None, None))
        return None if attempt is None else attempt_path(self._store, used.directory, attempt)
