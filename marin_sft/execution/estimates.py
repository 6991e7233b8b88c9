"""How long the steps of a plan will take, and what they will cost, judged by earlier attempts of the same kind on the
same machines (`comparison`). The outputs of inputs that do not exist yet are estimated in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from marin_sft.errors import UserError
from marin_sft.execution.catalog import in_parallel
from marin_sft.execution.claims import read_beat
from marin_sft.execution.commits import committed_files
from marin_sft.execution.comparison import Comparison
from marin_sft.execution.graph import Node
from marin_sft.execution.past import PastAttempt, kind_of, machines_asked, past_attempts, size_of
from marin_sft.execution.plan import Action, Plan, PlanItem
from marin_sft.execution.prices import DEFAULT_FILE, Machines, Prices
from marin_sft.execution.room import Room, wall_seconds
from marin_sft.execution.step import StepConfig
from marin_sft.execution.tables import duration_text
from marin_sft.execution.work import Amounts, amounts_of
from marin_sft.nearest import listed

_MAY_RUN = (Action.RUN, Action.IF_CHANGED)
_SHOWN = 5  # steps that an error names
_SHORTEST = 0.05  # seconds that are not shown as 0.0


@dataclass(frozen=True)
class Estimate:
    """What one step will take. seconds, cost: None if unknown. ground: what it rests on, or why it is unknown.

    machines: what it runs on. None: they are not understood. runs: how many earlier runs it rests on.
    """

    seconds: float | None
    ground: str
    machines: Machines | None
    cost: float | None = None
    runs: int = 0

    def to_json(self) -> dict[str, object]:
        seconds = None if self.seconds is None else round(self.seconds, 1)
        return {"seconds": seconds, "cost": self.cost, "ground": self.ground}


@dataclass(frozen=True)
class Estimates:
    """What a plan will take. of: by step, for those that run or may run.

    wall_seconds: until the last step ends, without those whose time is unknown. room: what can run at once; empty if
        there is no earlier run of any kind of these steps.
    """

    of: Mapping[Node, Estimate] = field(default_factory=dict)
    wall_seconds: float = 0.0
    room: str = ""
    prices: Prices | None = None

    @property
    def cost(self) -> float:
        """Of all steps whose cost is known."""
        return sum(found.cost for found in self.of.values() if found.cost is not None)

    @property
    def any_known(self) -> bool:
        return any(found.seconds is not None for found in self.of.values())

    def lines(self) -> Iterator[str]:
        """The totals, what they rest on, and what is not in them; none if no step has a kind that ran before."""
        if not self.room:
            return
        known = [of for of in self.of.values() if of.seconds is not None]
        unknown = {node: of for node, of in self.of.items() if of.seconds is None}
        yield f"Estimate: {self._total(partial=bool(unknown))}, {self.room}"
        grounds = {of.ground.partition(" of ")[2]: of.ground for of in sorted(known, key=lambda of: -of.runs)}
        if grounds:
            yield f"  from {', '.join(grounds.values())}"  # of each kind, the fewest
        for ground in dict.fromkeys(of.ground for of in unknown.values()):
            names = [node.name for node, of in unknown.items() if of.ground == ground]
            yield f"  unknown: {listed(names, most=_SHOWN)} ({ground})"

    def _total(self, partial: bool) -> str:
        if partial and self.wall_seconds < _SHORTEST:
            return "unknown"
        costs = f", {self.prices.text(self.cost)}" if self.prices else ""
        return f"{'at least' if partial else 'about'} {duration_text(self.wall_seconds)}{costs}"

    def check_budget(self, budget: float) -> None:
        """Raises:
        UserError: the steps cost more, or their cost is unknown; names them.
        """
        if self.prices is None:
            raise UserError(
                f"--budget {budget:g}: there are no prices, so the cost is unknown; name a file of prices with "
                f"--prices, or write {DEFAULT_FILE} here: docs/guides/costs.md shows what it holds"
            )
        unknown = [f"{node.name} ({self._why_unknown(of)})" for node, of in self.of.items() if of.cost is None]
        if unknown:
            shown = listed(unknown, most=_SHOWN)
            raise UserError(f"--budget {budget:g}: the cost of {len(unknown)} step(s) is unknown: {shown}")
        if self.cost > budget:
            costs = sorted(((of.cost or 0.0, node.name) for node, of in self.of.items()), reverse=True)
            most = ", ".join(f"{name} {self.prices.text(cost)}" for cost, name in costs[:_SHOWN] if cost > 0)
            raise UserError(
                f"--budget {budget:g}: the plan costs about {self.prices.text(self.cost)}, most of it for {most}"
            )

    def _why_unknown(self, estimate: Estimate) -> str:
        if estimate.seconds is None or self.prices is None:
            return estimate.ground
        return f"{self.prices.file} has no price of {estimate.machines and estimate.machines.device}"


def estimate(plan: Plan, prices: Prices | None, room: Room) -> Estimates:
    """Reads the store only if there is something to run."""
    to_run = [item for item in plan if item.action in _MAY_RUN]
    if not to_run:
        return Estimates(prices=prices)
    past = past_attempts(plan.store, [item.node for item in to_run])
    if not past:  # as in a new store, so nothing else is read either, or said of a total
        unknown = (
            Estimate(None, f"no earlier run of {kind_of(item.node)}", machines_asked(item.node)) for item in to_run
        )
        return Estimates(dict(zip((item.node for item in to_run), unknown, strict=True)), prices=prices)
    judge = _Judge(past, prices, _made(plan, to_run), _kept_shares(plan, to_run))
    found = {item.node: judge.estimate(item.node) for item in to_run}
    seconds = {node: judged.seconds or 0.0 for node, judged in found.items()}
    return Estimates(found, wall_seconds(seconds, room), room.text, prices)


def _made(plan: Plan, to_run: Sequence[PlanItem]) -> dict[Node, Amounts]:
    """The amounts of committed outputs that steps to run use."""
    outputs = {item.node: path for item in plan if (path := plan.output(item))}
    used = list(dict.fromkeys(node for item in to_run for node in item.node.inputs if node in outputs))

    def read(node: Node) -> Amounts:
        files = committed_files(plan.store, outputs[node])
        return amounts_of(plan.store, outputs[node], files) if files else {}

    return dict(zip(used, in_parallel(plan.store, read, used), strict=True))


def _kept_shares(plan: Plan, to_run: Sequence[PlanItem]) -> dict[Node, float]:
    """The part of its work that an attempt keeps for the one that continues it."""
    begun = [item for item in to_run if item.state.claim and item.state.kept]

    def share(item: PlanItem) -> float:
        assert item.state.claim is not None
        progress = read_beat(plan.store, item.node.directory, item.state.claim.number).get("progress") or {}
        total = progress.get("total")
        return min(1.0, item.state.kept / total) if isinstance(total, int | float) and total > 0 else 0.0

    return dict(zip((item.node for item in begun), in_parallel(plan.store, share, begun), strict=True))


@dataclass(frozen=True)
class _Judge:
    """made: the amounts of outputs. Estimated ones are added, so that inputs have to be judged first."""

    past: Sequence[PastAttempt]
    prices: Prices | None
    made: dict[Node, Amounts]
    kept_shares: Mapping[Node, float]

    def estimate(self, node: Node) -> Estimate:
        kind, machines = kind_of(node), machines_asked(node)
        alike = [attempt for attempt in self.past if attempt.kind == kind]
        comparison = self._comparison(node)
        if node not in self.made:
            self.made[node] = comparison.amounts(alike)
        here = comparison.nearest([attempt for attempt in alike if attempt.machines == machines])
        if not here or machines is None:
            return Estimate(None, f"no earlier run of {kind}" + (f" on {machines}" if alike else ""), machines)
        seconds = comparison.seconds(here)
        if seconds is None:
            return Estimate(None, "nothing tells how large its inputs will be", machines)
        seconds *= 1 - self.kept_shares.get(node, 0.0)
        runs = "1 run" if len(here) == 1 else f"{len(here)} runs"
        cost = self.prices.cost(machines, seconds) if self.prices else None
        return Estimate(seconds, f"{runs} of {kind} on {machines}", machines, cost, len(here))

    def _comparison(self, node: Node) -> Comparison:
        of_class = type(node.step.config) if isinstance(node.step.config, StepConfig) else None
        read = {used.fingerprint[:10]: self.made.get(used, {}) for used in node.inputs}
        config = node.payload["config"]
        return Comparison(node.name, config, size_of(of_class, config, read), of_class)
