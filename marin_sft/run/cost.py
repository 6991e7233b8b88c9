"""What launches really spent: the time of every attempt that the store still has, also of failed and lost ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from rich.console import Console
from rich.text import Text

from marin_sft.errors import DamagedFile
from marin_sft.execution.attempts import Attempt, How, read_attempts
from marin_sft.execution.catalog import in_parallel, step_directories, step_name
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.prices import Machines, Prices, machines_of, read_prices
from marin_sft.execution.record import read_begin
from marin_sft.execution.step_state import StepState, read_state
from marin_sft.execution.store import Store
from marin_sft.execution.tables import Cell, counted, duration_text, print_table
from marin_sft.nearest import listed
from marin_sft.run.context import Context
from marin_sft.run.launches import find_launch


@dataclass(frozen=True)
class Spent:
    """One attempt. machines: None if nothing tells what it ran on."""

    directory: str
    how: How
    seconds: float
    machines: Machines | None
    run: str | None


@dataclass(frozen=True)
class StepCost:
    """All attempts of a step. cost: None if it is unknown; `why` says why."""

    name: str
    directory: str
    attempts: int
    failed: int
    lost: int
    running: int
    seconds: float
    machines: str
    cost: float | None
    why: str | None


def print_cost(context: Context) -> None:
    """See `command.cost`."""
    arguments, store = context.arguments, context.store
    prices = read_prices(arguments.prices)
    launch = find_launch(store, arguments.run_name) if arguments.run_name else None
    if launch is None:
        directories = step_directories(store)
    else:
        directories = [step["directory"] for step in read_begin(store, launch)["steps"]]
    of_each = in_parallel(store, lambda directory: spent_on(store, directory, _state(store, directory)), directories)
    found = [spent for all_spent in of_each for spent in all_spent if launch is None or spent.run == launch.name]
    steps = step_costs(found, prices)
    untold = sum(spent.run is None for all_spent in of_each for spent in all_spent) if launch else 0
    context.say(
        _json(steps, prices, launch.name if launch else None, untold),
        lambda: _print(context.console, store, steps, prices, untold),
    )


def _state(store: Store, directory: str) -> StepState:
    """Attempts of a step whose claims or commits are damaged cost what they cost."""
    try:
        return read_state(store, directory)
    except DamagedFile:
        return StepState()


def spent_on(store: Store, directory: str, state: StepState) -> list[Spent]:
    """Every attempt of a step that the store still has, oldest first."""
    found = [_spent(directory, attempt) for attempt in read_attempts(store, directory, state)]
    known = [spent.machines for spent in found if spent.machines]
    # An older version's claims do not say what they hold. Attempts of one step rarely hold different machines.
    return [spent if spent.machines or not known else replace(spent, machines=known[-1]) for spent in found]


def _spent(directory: str, attempt: Attempt) -> Spent:
    machines = machines_of(attempt.resources) if attempt.resources else None
    return Spent(directory, attempt.how, attempt.seconds, machines, attempt.run)


def step_costs(spent: Iterable[Spent], prices: Prices | None) -> list[StepCost]:
    """By step, the dearest first, else the longest."""
    by_step: dict[str, list[Spent]] = {}
    for one in spent:
        by_step.setdefault(one.directory, []).append(one)
    found = [_step_cost(directory, attempts, prices) for directory, attempts in by_step.items()]
    return sorted(found, key=lambda step: (-(step.cost or 0.0), -step.seconds, step.directory))


def _step_cost(directory: str, attempts: list[Spent], prices: Prices | None) -> StepCost:
    costs = [prices.cost(one.machines, one.seconds) if prices and one.machines else None for one in attempts]
    unpriced = next((one for one, of_one in zip(attempts, costs, strict=True) if of_one is None), None)
    return StepCost(
        name=step_name(directory),
        directory=directory,
        attempts=len(attempts),
        failed=sum(one.how == "failed" for one in attempts),
        lost=sum(one.how == "lost" for one in attempts),
        running=sum(one.how == "running" for one in attempts),
        seconds=round(sum(one.seconds for one in attempts), 3),
        machines=", ".join(dict.fromkeys(str(one.machines or "?") for one in attempts)),
        cost=None if unpriced else sum(of_one or 0.0 for of_one in costs),
        why=_why(unpriced, prices) if unpriced else None,
    )


def _why(unpriced: Spent, prices: Prices | None) -> str:
    if prices is None:
        return "there are no prices"
    return (
        f"{prices.file} has no price of {unpriced.machines.device}"
        if unpriced.machines
        else "it is not known what it ran on"
    )


def _json(steps: list[StepCost], prices: Prices | None, run: str | None, untold: int) -> JsonObject:
    return {
        "run": run,
        "seconds": round(sum(step.seconds for step in steps), 3),
        "cost": sum(step.cost or 0.0 for step in steps) if prices else None,
        "currency": prices.currency if prices else None,
        "unknown": [step.directory for step in steps if step.cost is None],
        "attempts_of_unknown_launches": untold,
        "steps": [asdict(step) for step in steps],
    }


def _print(console: Console, store: Store, steps: list[StepCost], prices: Prices | None, untold: int) -> None:
    columns = ("step", "attempts", "time", *(("cost",) if prices else ()), "on")
    if steps:
        of_name = Counter(step.name for step in steps)
        print_table(console, columns, [_row(step, prices, of_name[step.name] == 1) for step in steps], "step")
    attempts = sum(step.attempts for step in steps)
    seconds = sum(step.seconds for step in steps)
    total = f"{counted(len(steps), 'step')}, {counted(attempts, 'attempt')}, {duration_text(seconds)} in total"
    costs = f", {prices.text(sum(step.cost or 0.0 for step in steps))}" if prices else ""
    console.print(Text(f"{total}{costs}, under {store.prefix}"))
    unknown = {step.why for step in steps if step.cost is None and prices}
    if unknown:
        names = [step.name for step in steps if step.cost is None]
        console.print(Text(f"not in it: {listed(names, most=5)}, since {'; '.join(sorted(map(str, unknown)))}"))
    if untold:
        console.print(Text(f"{counted(untold, 'attempt')} of these steps do not say which launch made them"))


def _row(step: StepCost, prices: Prices | None, named: bool) -> tuple[Cell, ...]:
    counts = {"failed": step.failed, "lost": step.lost, "running": step.running}
    apart = ", ".join(f"{count} {how}" for how, count in counts.items() if count)
    attempts = f"{step.attempts} ({apart})" if apart else str(step.attempts)
    costs = () if prices is None else ("?" if step.cost is None else prices.text(step.cost),)
    return step.name if named else step.directory, attempts, duration_text(step.seconds), *costs, step.machines
