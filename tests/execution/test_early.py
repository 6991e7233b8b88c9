"""Steps that use parts of steps which have not ended."""

import dataclasses
import threading
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import pytest

from marin_sft.errors import ConfigError, InfrastructureLoss
from marin_sft.execution.commits import read_commit
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path
from marin_sft.execution.graph import build_graph
from marin_sft.execution.plan import Plan, make_plan
from marin_sft.execution.results import Policy
from marin_sft.execution.scheduler import Scheduler
from marin_sft.execution.selection import Selection
from marin_sft.execution.stores import open_store
from marin_sft.execution.worker import Outcome, Task, run_attempt
from marin_sft.parts import declare_whole, files_of

PART = "hf/step-1"


class Threads:
    """A backend that runs each attempt in a thread of its own."""

    capacity: int | None = None

    def submit(self, task: Task) -> Future[Outcome]:
        future: Future[Outcome] = Future()

        def run() -> None:
            try:
                future.set_result(run_attempt(task, own_process=False, echo=False))
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    def wait(self, running: Collection[Future[Outcome]], timeout: float | None) -> set[Future[Outcome]]:
        return wait(running, timeout=timeout, return_when=FIRST_COMPLETED).done

    def let_keep(self) -> None: ...

    def close(self) -> None: ...


class Events:
    """A listener that notes what it hears, as (event, step)."""

    def __init__(self, on: Callable[[str, str], None]) -> None:
        self.heard: list[tuple[str, str]] = []
        self._on = on

    def __getattr__(self, event: str) -> Callable[..., None]:
        def hear(what: Any, *_: Any) -> None:
            item = getattr(what, "item", what)
            status = f" {what.status}" if event == "finished" else ""
            self.heard.append((f"{event}{status}", item.node.name))
            self._on(event, item.node.name)

        return hear


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """behaviour: what each attempt writes into its part, and how it ends, see `training`."""

    behaviour: tuple[tuple[str, str], ...]
    output_path: str = this_output_path()


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    model: str
    output_path: str = this_output_path()


GO_ON = threading.Event()  # the training may end
BODIES: list[str] = []


@step_fn(kind="training_with_parts")
def training(config: TrainingConfig) -> None:
    """Writes its part, waits until it has been evaluated, then ends well ("ends"), badly, or is lost."""
    attempt = int(Path(config.output_path).name)
    text, end = config.behaviour[min(attempt, len(config.behaviour)) - 1]
    part = Path(config.output_path, PART)
    part.mkdir(parents=True)
    (part / "model.txt").write_text(text)
    declare_whole(config.output_path, PART, files_of(str(part)))
    BODIES.append(f"training {attempt}")
    if end != "ends at once":
        assert GO_ON.wait(60)
    if end == "is lost":
        raise InfrastructureLoss("the machine is gone")
    if end == "fails":
        raise ValueError("no")


@step_fn(kind="evaluation_of_part")
def evaluation(config: EvaluationConfig) -> None:
    BODIES.append("evaluation")
    Path(config.output_path, "found.txt").write_text(Path(config.model, "model.txt").read_text())


@step_fn(kind="table_of_evaluation")
def table(config: EvaluationConfig) -> None:
    BODIES.append("table")
    Path(config.output_path, "found.txt").write_text(Path(config.model, "found.txt").read_text())


@dataclasses.dataclass(frozen=True)
class Launches:
    """Launches of a training with these attempts, the evaluation of its part, and a table of that."""

    prefix: Path
    training: ExecutorStep
    evaluation: ExecutorStep
    table: ExecutorStep

    def plan(self, *steps: ExecutorStep) -> Plan:
        return make_plan(build_graph(steps or [self.table]), open_store(str(self.prefix)), Selection())

    def actions(self) -> dict[str, str]:
        return {item.node.name: str(item.action) for item in self.plan()}

    def run(self, *steps: ExecutorStep) -> list[tuple[str, str]]:
        """What the launch's listener hears. The training ends once the evaluation has."""
        GO_ON.clear()
        BODIES.clear()

        def on(event: str, name: str) -> None:
            if event in ("early", "finished") and name == "evaluation":
                GO_ON.set()

        events = Events(on)
        graph = build_graph(steps or [self.table])
        plan = make_plan(graph, open_store(str(self.prefix)), Selection())
        if plan.to_do and not any(item.node.name == "evaluation" for item in plan.to_do if item.action == "RUN"):
            GO_ON.set()
        Scheduler(plan, graph, Threads(), Policy(), events, {}).run()
        return events.heard

    def found(self) -> str:
        (path,) = self.prefix.glob("table-*/latest/found.txt")
        return path.read_text()


@pytest.fixture
def launches(tmp_path):
    def make(*behaviour: tuple[str, str]) -> Launches:
        trained = ExecutorStep("training", training, TrainingConfig(behaviour))
        evaluated = ExecutorStep("evaluation", evaluation, EvaluationConfig(trained.early(PART)))
        return Launches(
            tmp_path / "store", trained, evaluated, ExecutorStep("table", table, EvaluationConfig(evaluated))
        )

    return make


def test_a_part_is_used_while_its_step_runs_and_counts_once_it_commits(launches):
    launch = launches(("a", "ends"))
    heard = launch.run()
    assert heard == [
        ("started", "training"),
        ("started", "evaluation"),
        ("early", "evaluation"),
        ("finished ran", "training"),
        ("finished ran", "evaluation"),
        ("started", "table"),
        ("finished ran", "table"),
    ]
    assert launch.found() == "a"
    assert set(launch.actions().values()) == {"SKIP"}
    (directory,) = launch.prefix.glob("evaluation-*")
    commit = read_commit(open_store(str(launch.prefix)), directory.name, 1)
    assert commit is not None
    (used,) = commit.inputs
    assert (used.commit, used.parts) == (1, (PART,)) and used.digest


@pytest.mark.parametrize(("second", "evaluations"), [("a", 1), ("b", 2)])
def test_a_lost_attempt_whose_part_was_used_is_compared_with_the_one_that_commits(launches, second, evaluations):
    launch = launches(("a", "is lost"), (second, "ends"))
    heard = launch.run()
    assert [name for name in BODIES if name != "table"].count("evaluation") == evaluations
    assert heard.count(("outdated", "evaluation")) == evaluations - 1
    assert BODIES.count("table") == 1 and launch.found() == second
    assert set(launch.actions().values()) == {"SKIP"}


@pytest.mark.parametrize(("second", "evaluations"), [("a", 0), ("b", 1)])
def test_after_a_failure_the_next_launch_confirms_what_was_made(launches, second, evaluations):
    launch = launches(("a", "fails"), (second, "ends"))
    heard = launch.run()
    assert heard[-3:] == [
        ("finished failed", "training"),
        ("finished blocked", "table"),
        ("finished ran", "evaluation"),
    ]
    assert launch.actions() == {"training": "RUN", "evaluation": "IF_CHANGED", "table": "RUN"}

    launch.run()
    assert BODIES.count("evaluation") == evaluations and launch.found() == second
    assert set(launch.actions().values()) == {"SKIP"}


def test_without_a_second_process_the_part_is_used_after_its_step(launches, capsys):
    launch = launches(("a", "ends at once"))
    BODIES.clear()
    Executor(ExecutorFlags(prefix=str(launch.prefix), backend="inline")).run([launch.table])
    assert BODIES == ["training 1", "evaluation", "table"] and launch.found() == "a"


def test_a_part_of_a_step_that_another_launch_runs(launches):
    launch = launches(("a", "ends"))
    graph, unheard = build_graph([launch.training]), Events(lambda event, name: None)
    plan = make_plan(graph, open_store(str(launch.prefix)), Selection())
    GO_ON.clear()
    other = threading.Thread(target=Scheduler(plan, graph, Threads(), Policy(), unheard, {}).run, daemon=True)
    other.start()
    while launch.plan(launch.training).items[0].reason != "RUNNING":
        assert other.is_alive()
    heard = launch.run()
    other.join()
    assert heard.index(("early", "evaluation")) < heard.index(("finished adopted", "training"))
    assert (BODIES.count("evaluation"), BODIES.count("table")) == (1, 1)


def test_a_rerun_with_the_same_part_changes_nothing_and_with_another_part_reruns_its_users(launches):
    launch = launches(("a", "ends at once"), ("a", "ends at once"), ("b", "ends at once"))
    flags = {"prefix": str(launch.prefix), "backend": "inline"}
    Executor(ExecutorFlags(**flags)).run([launch.table])
    for expected in (["training 2"], ["training 3", "evaluation", "table"]):
        BODIES.clear()
        Executor(ExecutorFlags(**flags, force_run=("training",))).run([launch.table])
        assert expected == BODIES


def test_the_time_of_use_is_no_part_of_the_identity(launches):
    launch = launches(("a", "ends"))
    later = ExecutorStep("evaluation", evaluation, EvaluationConfig(launch.training / PART))
    assert build_graph([later]).roots[0].fingerprint == build_graph([launch.evaluation]).roots[0].fingerprint


@pytest.mark.parametrize(
    "make",
    [
        lambda step: step.early("hf/*"),
        lambda step: step.nonblocking().cd(PART).early(),
        lambda step: step.as_input_name().early(),
        lambda step: type(step / PART).hardcoded("models/x").early(),
    ],
)
def test_only_a_directory_of_a_steps_output_can_be_used_early(launches, make):
    with pytest.raises(ConfigError, match="expected a directory in a step's output"):
        make(launches(("a", "ends")).training)
