"""Configs that name their body: the step's function by its import path."""

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from marin_sft.errors import ConfigError, GraphError, RunFailed
from marin_sft.execution.executor import ExecutorStep, step_fn, this_output_path
from marin_sft.execution.graph import build_graph
from marin_sft.execution.step import StepConfig, kind_of

COUNTING = """
from pathlib import Path

def _logged(function):
    return function

LIMIT = 3

@_logged
def count(config):
    if config.limit > LIMIT:
        raise ValueError(f"more than {LIMIT}")
    Path(config.output_path, "count.txt").write_text(str(config.limit))

def other(config):
    pass
"""


@dataclass(frozen=True)
class CountConfig(StepConfig, kind="count", version=2, body="counting:count", fresh_process=True):
    limit: int = 1
    output_path: str = this_output_path()


@dataclass(frozen=True)
class MissingModuleConfig(StepConfig, kind="missing_module", body="tests.nothing:count"):
    output_path: str = this_output_path()


@dataclass(frozen=True)
class MissingFunctionConfig(StepConfig, kind="missing_function", body="counting:_logge"):
    output_path: str = this_output_path()


@dataclass(frozen=True)
class PlainConfig:
    limit: int = 1
    output_path: str = this_output_path()


def count(config: PlainConfig) -> None:
    raise AssertionError("never run")


@pytest.fixture
def counting(tmp_path, monkeypatch):
    """The file of a module that no process has imported yet."""
    file = tmp_path / "counting.py"
    file.write_text(COUNTING)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "counting", raising=False)
    yield file
    sys.modules.pop("counting", None)


def step(limit: int = 1) -> ExecutorStep[CountConfig]:
    return ExecutorStep("counts/a", config=CountConfig(limit))


def test_the_body_is_imported_to_run_and_not_to_plan(pipeline, counting):
    assert pipeline.plan(step())["counts/a"].reason == "NEW"
    assert "counting" not in sys.modules
    run = pipeline.run(step())
    output = pipeline.prefix / build_graph([step()]).roots[0].directory / "1"
    assert [result.status for result in run.results] == ["ran"] and (output / "count.txt").read_text() == "1"
    record = json.loads((output / ".record.json").read_text())
    assert record["function"] == "counting.count" and record["payload"]["kind"] == "count"
    assert record["payload"]["version"] == 2 and kind_of(step().fn).fresh_process


def test_identity_is_that_of_a_function_of_the_same_kind(counting):
    marked = step_fn(kind="count", version=2)(count)
    payloads = [build_graph([s]).roots[0].payload for s in (step(), ExecutorStep("counts/a", marked, PlainConfig()))]
    assert payloads[0] == payloads[1]


def test_an_error_of_the_body_is_shown_where_it_was_raised(pipeline, counting, capsys):
    with pytest.raises(RunFailed):
        pipeline.run(step(4))
    shown = capsys.readouterr().out
    assert f"counts/a failed: ValueError: more than 3\n  at    {counting}:12 in count: raise ValueError" in shown


def test_a_cached_step_says_that_the_source_of_its_body_has_changed(pipeline, counting):
    def detail(text: str) -> str:
        # In a process of its own: one process sees one source.
        counting.write_text(text)
        importlib.invalidate_caches()
        command = [sys.executable, "-c", PLAN, str(pipeline.prefix), str(counting.parent)]
        done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)[0]["detail"]

    pipeline.run(step())
    assert detail(COUNTING) == ""
    assert detail(COUNTING.replace("LIMIT = 3", "LIMIT = 4")) == "", "another function's, or the module's"
    assert detail(COUNTING.replace("str(config.limit)", "'?'")) == "source changed since"
    assert detail(COUNTING.replace("@_logged\n", "")) == "source changed since"


PLAN = """
import sys
from dataclasses import dataclass
sys.path.insert(0, sys.argv[2])
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, this_output_path
from marin_sft.execution.step import StepConfig

@dataclass(frozen=True)
class CountConfig(StepConfig, kind="count", version=2, body="counting:count"):
    limit: int = 1
    output_path: str = this_output_path()

Executor(ExecutorFlags(prefix=sys.argv[1], json=True)).run([ExecutorStep("counts/a", config=CountConfig())])
assert "counting" not in sys.modules
"""


def test_a_body_that_is_not_there_is_refused_by_name(counting):
    with pytest.raises(ConfigError, match="step 'a' body 'tests.nothing:count': no module 'tests.nothing'; expected"):
        build_graph([ExecutorStep("a", config=MissingModuleConfig())])
    with pytest.raises(ConfigError, match="step 'a' body 'counting:_logge': .*counting.py has no function '_logge'"):
        build_graph([ExecutorStep("a", config=MissingFunctionConfig())])


def test_a_function_beside_a_config_that_names_its_body_is_refused(counting):
    with pytest.raises(ConfigError, match=r"step 'a': got fn=.*test_step.count, but CountConfig names its body"):
        ExecutorStep("a", count, CountConfig())
    assert replace(step(), name="b").fn is step().fn, "a copy of a step holds it"


def test_a_step_without_a_function_or_a_config_is_refused():
    with pytest.raises(ConfigError, match=r"step 'a': got no fn, and PlainConfig names no body; expected fn="):
        ExecutorStep("a", config=PlainConfig())
    with pytest.raises(ConfigError, match=r"step 'a': got no config; expected ExecutorStep\(name, fn, config\)"):
        ExecutorStep("a", count)
    with pytest.raises(ConfigError, match=r"step 'a': StepConfig names no body"):
        ExecutorStep("a", config=StepConfig())


@pytest.mark.parametrize("said", [{"kind": "a"}, {"body": "a:b"}, {"version": 2}, {"kind": "a", "body": "a.b"}])
def test_a_class_says_both_its_kind_and_its_body(said):
    with pytest.raises(ConfigError, match="class Half: got kind=.*expected both"):
        type("Half", (StepConfig,), {}, **said)


def test_a_subclass_has_the_body_of_its_base():
    class Further(CountConfig):
        pass

    assert ExecutorStep("a", config=Further()).fn is step().fn


def test_two_bodies_of_one_kind(counting):
    @dataclass(frozen=True)
    class OtherConfig(StepConfig, kind="count", version=2, body="counting:other"):
        output_path: str = this_output_path()

    with pytest.raises(GraphError, match=r"functions with the same kind 'count' \(counting.count and counting.other\)"):
        build_graph([step(), ExecutorStep("b", config=OtherConfig())])
