"""Plan a list of steps, print the plan and run it: the command line of every experiment.

    if __name__ == "__main__":
        executor_main(steps=[training_step])

Exit codes: 0 done, 1 a step failed, 2 a user error before anything ran, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marin_sft.arguments import named_arguments
from marin_sft.errors import (
    InfrastructureLoss,
    PreviousTaskFailedError,
    RunFailed,
    StoreError,
    StoreUnavailable,
    UserError,
)
from marin_sft.execution.backends import Backend, InlineBackend
from marin_sft.execution.flags import ExecutorFlags, parse_flags
from marin_sft.execution.graph import Graph, build_graph
from marin_sft.execution.plan import Plan, make_plan
from marin_sft.execution.ray_connection import act_as_script, in_worker
from marin_sft.execution.ray_environment import LAUNCHER
from marin_sft.execution.record import RunRecord
from marin_sft.execution.resources import CpuConfig, GpuConfig, RuntimeEnv, TpuPodConfig
from marin_sft.execution.results import StepResult
from marin_sft.execution.scheduler import Policy, Scheduler
from marin_sft.execution.selection import Selection, check_selection
from marin_sft.execution.signals import sigterm_as_interrupt
from marin_sft.execution.step import (
    THIS_OUTPUT_PATH,
    AnyStep,
    ExecutorStep,
    InputName,
    OutputName,
    earlier_attempts,
    execution_only,
    omitted_when,
    output_path_of,
    step_fn,
    this_output_path,
    unversioned,
    versioned,
)
from marin_sft.execution.store import Store
from marin_sft.execution.stores import open_reachable, probe
from marin_sft.execution.terminal import complain, early_end_allowed, visible

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "THIS_OUTPUT_PATH",
    "CpuConfig",
    "Executor",
    "ExecutorFlags",
    "ExecutorStep",
    "GpuConfig",
    "InputName",
    "OutputName",
    "Run",
    "RuntimeEnv",
    "TpuPodConfig",
    "earlier_attempts",
    "execution_only",
    "executor_main",
    "omitted_when",
    "output_path_of",
    "step_fn",
    "this_output_path",
    "unversioned",
    "versioned",
]


@dataclass(frozen=True)
class Run:
    """A launch: its plan and, unless it was a dry run, the result of each step."""

    graph: Graph
    plan: Plan
    results: tuple[StepResult, ...] = ()

    @property
    def failed(self) -> bool:
        return any(result.status in ("failed", "blocked", "cancelled") for result in self.results)

    def output_path(self, step: AnyStep, name: str | None = None) -> str | None:
        """The path of the step's committed output, or of `name` inside it; None if there is none."""
        from marin_sft.execution.view import result_output

        node = self.graph.node(step)
        root = next((result_output(self.plan.store, r) for r in self.results if r.item.node is node), None)
        if not self.results:
            root = next((self.plan.output(item) for item in self.plan if item.node is node), None)
        return f"{root}/{name}" if root and name else root


class Executor:
    """Plans and runs steps under one prefix. `executor_main` adds the command line."""

    def __init__(self, flags: ExecutorFlags | None = None, *, takes_flags: bool = True) -> None:
        """takes_flags: whether the script hands its command line to the executor, so that failures can advise flags."""
        self.flags, self._takes_flags = flags or ExecutorFlags(), takes_flags

    def plan(self, steps: Sequence[AnyStep]) -> Run:
        """Decide what would run. Reads the store and writes nothing.

        Raises:
            UserError: the steps or flags are invalid.
            PreviousTaskFailedError: see `--force_run_failed`.
        """
        act_as_script()
        graph = build_graph(steps)
        store = open_reachable(self.flags.prefix)
        return Run(graph, make_plan(graph, store, self._selection()))

    def _selection(self) -> Selection:
        flags = self.flags
        return Selection(flags.force_run, flags.cascade, flags.run_only, flags.force_run_failed)

    def run(self, steps: Sequence[AnyStep], description: str | None = None) -> Run:
        """Plan, print the plan, run what needs to run, and print the results.

        Raises:
            UserError: before anything ran.
            RunFailed: a step failed; everything that does not depend on it has run.
        """
        if self.flags.dry_run or self.flags.json:
            return self._dry_run(steps)
        act_as_script()
        graph = build_graph(steps)
        check_selection(graph, self._selection())
        store = open_reachable(self.flags.prefix)
        record = RunRecord(store)
        # Before reading any step, so that gc does not remove what this launch finds.
        unrecorded = record.begin(description, graph)
        answers = True
        plan, results = Plan((), store), list[StepResult]()
        status = "refused"
        try:
            plan = make_plan(graph, store, self._selection())
            _check_writable(plan, unrecorded)
            status = "interrupted"
            run = self._carry_out(Run(graph, plan), results, record.provenance)
            status = "failed" if run.failed else "done"
        except StoreUnavailable as error:
            answers = not error.silent
            raise
        except StoreError:  # when nothing has run: a host does not share the prefix
            status = "interrupted" if results else "refused"
            raise
        finally:
            if answers:
                record.end(status, plan.to_json(), [_result_json(store, result) for result in results])
        if run.failed:
            raise RunFailed(f"{sum(r.status == 'failed' for r in results)} step(s) failed")
        return run

    def _dry_run(self, steps: Sequence[AnyStep]) -> Run:
        planned = self.plan(steps)
        if self.flags.json:
            with early_end_allowed():
                print(json.dumps(planned.plan.to_json(), indent=1))
            return planned
        from marin_sft.execution.console import make_console
        from marin_sft.execution.view import print_plan

        print_plan(make_console(), planned.plan)
        return planned

    def _carry_out(self, planned: Run, results: list[StepResult], provenance: dict[str, object]) -> Run:
        """Fills `results`, even if it is interrupted."""
        from marin_sft.execution.console import make_console
        from marin_sft.execution.view import print_failures, print_plan, print_results

        console, begun, store = make_console(), time.monotonic(), planned.plan.store
        print_plan(console, planned.plan)
        if planned.plan.to_do:
            self._schedule(planned, console, results, provenance)
        else:
            results += [StepResult(i, "cached" if i.commit else "unneeded", i.commit) for i in planned.plan]
        print_results(console, store, results, time.monotonic() - begun)
        run = Run(planned.graph, planned.plan, tuple(results))
        if run.failed:
            print_failures(console, store, results, _this_command(), self._takes_flags)
        return run

    def _schedule(self, run: Run, console: Console, results: list[StepResult], provenance: dict[str, object]) -> None:
        from marin_sft.execution.live_view import LiveView

        backend = self._backend(console, run.plan.store)
        policy = Policy(self.flags.max_concurrent, self.flags.fail_fast, beat_timeout=self.flags.beat_timeout)
        try:
            with LiveView(console, run.plan.store, elsewhere=self.flags.backend == "ray") as view:
                scheduler = Scheduler(run.plan, run.graph, backend, policy, view, provenance)
                try:
                    scheduler.run()
                finally:
                    results += scheduler.results
        finally:
            backend.close()

    def _backend(self, console: Console, store: Store) -> Backend:
        if self.flags.backend == "inline":
            return InlineBackend()
        from marin_sft.execution.ray_backend import RayBackend

        backend = RayBackend(console.print)
        backend.start(store)
        if backend.dashboard_url:
            console.print(f"Ray dashboard: {backend.dashboard_url}")
        return backend


@named_arguments()
def executor_main(steps: Sequence[AnyStep], description: str | None = None, argv: Sequence[str] | None = None) -> Run:
    """Run `steps` as the command line says (`argv`, by default `sys.argv`). Exits the process on failure.

    In a Ray task or actor it does not exit but raises, and `argv` has to be given to set flags.
    """
    act_as_script()
    if in_worker():
        return Executor(parse_flags(sys.argv[1:] if argv is None else argv)).run(steps, description)
    try:
        flags = parse_flags(sys.argv[1:] if argv is None else argv)
        with sigterm_as_interrupt():
            return Executor(flags).run(steps, description)
    except (UserError, PreviousTaskFailedError, InfrastructureLoss) as error:
        sys.exit(complain(error, 2))
    except RunFailed:
        sys.exit(1)
    except KeyboardInterrupt:
        command = shlex.join(["python", *sys.argv])
        print(visible(f"\nInterrupted. Finished steps are kept. To continue: {_launcher()}{command}"), file=sys.stderr)
        sys.exit(130)


def _check_writable(plan: Plan, unrecorded: OSError | None) -> None:
    """A launch with nothing to run does not need a writable store."""
    if plan.to_do:
        probe(plan.store)
        if unrecorded is not None:  # without a record, gc might remove what this launch uses
            raise StoreError(f"prefix {plan.store.prefix}: this launch could not be recorded: {unrecorded}")
    elif unrecorded is not None:
        print(visible(f"warning: no record of this launch in {plan.store.prefix}: {unrecorded}"), file=sys.stderr)


def _result_json(store: Store, result: StepResult) -> dict[str, object]:
    return {
        "name": result.item.node.name,
        "path": store.path(result.item.node.directory),
        "result": result.status,
        "commit": result.commit and result.commit.number,
        "attempt": result.commit.attempt if result.commit else result.attempt,
        "seconds": round(result.seconds, 3),
        "error": result.failure and result.failure.error,
    }


def _this_command() -> str:
    """The command of this launch, without its choice of steps."""
    kept, choosing = [], False
    for word in sys.argv[1:]:
        if word.startswith("--"):
            choosing = word.removeprefix("--").partition("=")[0] in _CHOICES
        if not choosing:
            kept.append(word)
    return _launcher() + shlex.join(["python", sys.argv[0], *kept])


_CHOICES = ("run_only", "force_run", "cascade")


def _launcher() -> str:
    """The words to put before this launch's command to repeat it."""
    launcher = os.environ.get(LAUNCHER)
    return f"{launcher} " if launcher else ""
