"""Plan a list of steps, print the plan and run it: the command line of every experiment.

    if __name__ == "__main__":
        executor_main(steps=[training_step])

Exit codes: 0 done, 1 a step failed, 2 a user error before anything ran, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
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
from marin_sft.execution import ray_environment
from marin_sft.execution.backends import Backend, InlineBackend
from marin_sft.execution.flags import ExecutorFlags, parse_flags
from marin_sft.execution.graph import Graph, build_graph
from marin_sft.execution.plan import Plan, make_plan
from marin_sft.execution.ray_connection import act_as_script, in_worker, would_be_private
from marin_sft.execution.record import RunRecord
from marin_sft.execution.resources import CpuConfig, GpuConfig, RuntimeEnv, TpuPodConfig
from marin_sft.execution.results import Policy, StepResult
from marin_sft.execution.scheduler import Scheduler
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

    from marin_sft.execution.estimates import Estimates
    from marin_sft.execution.plan_file import PlanFile

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


_CHOICES = ("run_only", "force_run", "cascade", "plan")  # flags that choose steps


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
        planned = self._plan_file()
        store = open_reachable(self.flags.prefix)
        return Run(graph, self._make_plan(graph, store, planned))

    def _plan_file(self) -> PlanFile | None:
        """The plan of `--plan`.

        Raises:
            UserError: it cannot be read, or was made for another prefix or with other flags.
        """
        if self.flags.plan is None:
            return None
        from marin_sft.execution.plan_changes import check_place  # few launches have such a file
        from marin_sft.execution.plan_file import read_plan

        planned = read_plan(self.flags.plan)
        check_place(self.flags.plan, planned, self.flags.prefix, self.flags.choosing)
        return planned

    def _make_plan(self, graph: Graph, store: Store, planned: PlanFile | None) -> Plan:
        """planned: what the plan has to be, except for what launches of `planned` have done of it before."""
        selection = self._selection()
        if planned is None:
            return make_plan(graph, store, selection)
        from marin_sft.execution.plan_changes import check_unchanged
        from marin_sft.execution.plan_file import carried_out, plan_file

        before = carried_out(planned, store)
        done = frozenset(node.directory for node in graph if store.path(node.directory) in before.made)
        plan = make_plan(graph, store, dataclasses.replace(selection, done=done))
        check_unchanged(str(self.flags.plan), planned, plan_file(plan, self.flags.choosing, None), before, store)
        return plan

    def _estimates(self, plan: Plan) -> Estimates | None:
        """None if there is nothing to run, or nothing to go by."""
        flags, store = self.flags, plan.store
        if not plan.to_do or flags.budget is None and not store.folders(store.prefix):
            return None
        from marin_sft.execution.estimates import estimate  # not needed to plan what is cached or new
        from marin_sft.execution.prices import read_prices
        from marin_sft.execution.room import Room

        room = Room.of(flags.backend, would_be_private(), flags.max_concurrent)
        return estimate(plan, read_prices(flags.prices), room)

    def _selection(self) -> Selection:
        flags = self.flags
        return Selection(flags.force_run, flags.cascade, flags.run_only, flags.force_run_failed)

    def run(self, steps: Sequence[AnyStep], description: str | None = None) -> Run:
        """Plan, print the plan, run what needs to run, and print the results.

        Raises:
            UserError: before anything ran.
            RunFailed: a step failed; everything that does not depend on it has run.
        """
        if self.flags.dry_run or self.flags.json or self.flags.plan_out:
            return self._dry_run(steps)
        act_as_script()
        graph = build_graph(steps)
        check_selection(graph, self._selection())
        planned = self._plan_file()
        store = open_reachable(self.flags.prefix)
        record = RunRecord(store, planned.digest if planned else None)
        # Before reading any step, so that gc does not remove what this launch finds.
        unrecorded = record.begin(description, graph)
        answers = True
        plan, results = Plan((), store), list[StepResult]()
        status = "refused"
        try:
            plan = self._make_plan(graph, store, planned)
            self._show(plan)
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
        run = self.plan(steps)
        estimates = self._show(run.plan)
        if self.flags.plan_out:
            from marin_sft.execution.plan_file import plan_file
            from marin_sft.execution.repeating import this_command

            command = this_command(leaving_out=("plan_out", "dry_run", "json"))
            plan_file(run.plan, self.flags.choosing, estimates, command).write(self.flags.plan_out)
            again = f"{command} --plan {shlex.quote(self.flags.plan_out)}"
            print(visible(f"Plan written. To carry it out: {again}"), file=sys.stderr)
        return run

    def _show(self, plan: Plan) -> Estimates | None:
        """Print the plan with its estimates.

        Raises:
            UserError: it may cost more than the budget.
        """
        estimates = self._estimates(plan)
        if self.flags.json:
            of = {node: found.to_json() for node, found in estimates.of.items()} if estimates else {}
            values = zip(plan.to_json(), plan, strict=True)
            items = [{**value, "estimate": of.get(item.node)} for value, item in values]
            with early_end_allowed():
                print(json.dumps(items, indent=1))
        else:
            from marin_sft.execution.console import make_console
            from marin_sft.execution.view import print_plan

            print_plan(make_console(), plan, estimates)
        if estimates and self.flags.budget is not None:
            estimates.check_budget(self.flags.budget)
        return estimates

    def _carry_out(self, planned: Run, results: list[StepResult], provenance: dict[str, object]) -> Run:
        """Fills `results`, even if it is interrupted."""
        from marin_sft.execution.console import make_console
        from marin_sft.execution.view import print_failures, print_results

        console, begun, store = make_console(), time.monotonic(), planned.plan.store
        if planned.plan.to_do:
            self._schedule(planned, console, results, provenance)
        else:
            results += [StepResult(i, "cached" if i.commit else "unneeded", i.commit) for i in planned.plan]
        print_results(console, store, results, time.monotonic() - begun)
        run = Run(planned.graph, planned.plan, tuple(results))
        if run.failed:
            from marin_sft.execution.repeating import this_command

            print_failures(console, store, results, this_command(_CHOICES), self._takes_flags)
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
            if ray_environment.asks_for_token() and ray_environment.IN_JOB not in os.environ:  # there, ray_run says it
                console.print(f"  to open it: {ray_environment.how_to_open(backend.dashboard_url)}")
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
        from marin_sft.execution.repeating import this_command

        print(visible(f"\nInterrupted. Finished steps are kept. To continue: {this_command()}"), file=sys.stderr)
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
