"""What a step is made from, as it is when it runs: local files that are edited meanwhile, and outputs that are gone."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from marin_sft.errors import ConfigError, RunFailed
from marin_sft.execution.claims import attempt_path
from marin_sft.execution.executor import (
    Executor,
    ExecutorFlags,
    ExecutorStep,
    earlier_attempts,
    execution_only,
    step_fn,
    this_output_path,
)
from marin_sft.execution.graph import build_graph
from marin_sft.execution.stores import open_store
from marin_sft.steps import tokenize


@dataclasses.dataclass(frozen=True)
class CopyConfig:
    """Copies `data`, then edits files: from path to new text, or None to remove it; then fails if it is told to."""

    data: Any
    after: Any = None
    edits: dict[str, str | None] = execution_only(default_factory=dict)
    fail: bool = execution_only(default=False)
    output_path: str = this_output_path()
    earlier: tuple[str, ...] = earlier_attempts()


@step_fn(kind="copy_and_edit")
def copy(config: CopyConfig) -> None:
    found = sorted(path.read_text() for path in Path(config.data).parent.glob(Path(config.data).name))
    Path(config.output_path, "text.txt").write_text(f"{'+'.join(found)} after {len(config.earlier)}")
    for path, text in config.edits.items():
        Path(path).unlink() if text is None else Path(path).write_text(text)
    if config.fail:
        raise ValueError("told to fail")


@step_fn(kind="keep_nothing")
def keep(config: object) -> None:
    """Writes nothing."""


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.txt").write_text("ONE")
    return folder / "a.txt"


def copied(run, step) -> str:
    return Path(run.output_path(step, "text.txt")).read_text()


def fails(pipeline, step, capsys) -> str:
    """What is said when it does; nothing of it is committed."""
    capsys.readouterr()
    with pytest.raises(RunFailed):
        pipeline.run(step)
    assert not list(pipeline.prefix.glob(f"{step.name}-*/commits/*"))
    return " ".join(capsys.readouterr().out.split())


def test_a_file_edited_before_the_step_reads_it_fails_the_step(pipeline, data, capsys):
    before = ExecutorStep("before", copy, CopyConfig(str(data), edits={str(data): "TWO"}))
    step = ExecutorStep("step", copy, CopyConfig(data, after=before))
    text = fails(pipeline, step, capsys)
    assert f"config.data: {data} has changed since the plan was made" in text and "when the step began" in text
    assert not list(pipeline.prefix.glob("step-*/1/text.txt")), "the body has not begun"
    run = pipeline.run(step)
    assert copied(run, step) == "TWO after 0", "the next launch plans with what is there now"
    data.write_text("ONE")
    plan = pipeline.plan(step)["step"]
    assert (plan.action, plan.reason) == ("RUN", "RETRY") and "has changed since the plan was made" in plan.detail
    assert copied(pipeline.run(step), step) == "ONE after 0"


@pytest.mark.parametrize("text", ["TWO", None])
def test_a_file_edited_while_the_step_reads_it_fails_the_step(pipeline, data, text, capsys):
    step = ExecutorStep("step", copy, CopyConfig(data, edits={str(data): text}))
    said = fails(pipeline, step, capsys)
    assert f"config.data: {data} {'has changed' if text else 'does not exist'}" in said
    assert "when the step ended" in said
    data.write_text("ONE")
    step = ExecutorStep("step", copy, CopyConfig(data))
    assert copied(pipeline.run(step), step) == "ONE after 0", "nothing is resumed that was made from another file"


def test_a_file_address_counts_by_contents(data):
    Path(data.parent, "tokenizer.json").touch()

    def fingerprint(rows):
        return build_graph([tokenize("x", rows, tokenizer=data.parent)]).roots[0].fingerprint

    before = fingerprint(f"file://{data}")
    assert before == fingerprint(str(data))
    data.write_text("TWO")
    assert fingerprint(f"file://{data}") == fingerprint(data) != before


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (lambda data: CopyConfig(data), "data "),
        (lambda data: CopyConfig([data.parent / "b.txt", data]), "data[1] "),
        (lambda data: {"by.name": {"x": data}}, "by.name.x "),
        (lambda data: [data], "[0] "),
    ],
)
def test_the_file_that_was_edited_is_named(pipeline, data, config, field):
    (data.parent / "b.txt").touch()
    pipeline.run(ExecutorStep("s", keep, config(data)))
    data.write_text("TWO")
    item = pipeline.plan(ExecutorStep("s", keep, config(data)))["s"]
    ((said, old, new),) = item.diff
    assert item.reason == "CONFIG" and said == f"{field}({data}) content"
    assert [old, new] == [hashlib.sha256(text).hexdigest()[:10] for text in (b"ONE", b"TWO")]
    assert item.detail == f"{said} {old} -> {new}"


def test_an_empty_path_is_not_the_working_directory():
    with pytest.raises(ConfigError, match="expected a path, a glob or a step, got ''"):
        tokenize("x", "", tokenizer="gs://b/tokenizer")


def test_files_that_come_under_a_glob_are_edits_too(pipeline, data, capsys):
    step = ExecutorStep("step", copy, CopyConfig(data.parent / "*.txt", edits={str(data.parent / "b.txt"): "NEW"}))
    assert "*.txt has changed" in fails(pipeline, step, capsys)
    step = ExecutorStep("step", copy, CopyConfig(data.parent / "*.txt", edits={str(data.parent / ".b.txt"): "NEW"}))
    assert copied(pipeline.run(step), step) == "NEW+ONE after 0", "with b.txt it is another step; .b.txt does not count"


def test_a_step_that_fails_by_itself_is_resumed_unless_its_files_changed(pipeline, data, capsys):
    failing = ExecutorStep("step", copy, CopyConfig(data, fail=True))
    assert "has changed" not in fails(pipeline, failing, capsys)
    both = ExecutorStep("step", copy, CopyConfig(data, fail=True, edits={str(data): "TWO"}))
    text = fails(pipeline, both, capsys)
    assert f"told to fail; also, config.data: {data} has changed" in text
    data.write_text("ONE")
    step = ExecutorStep("step", copy, CopyConfig(data))
    assert copied(pipeline.run(step), step) == "ONE after 1", "from the first attempt, not from the second"


def test_a_target_whose_output_is_gone_is_made_again(pipeline):
    a = pipeline.step("a")
    b = pipeline.step("b", a)
    shutil.rmtree(pipeline.run(b).output_path(b))
    plan = pipeline.plan(b)
    assert (plan["b"].action, plan["b"].reason, plan["b"].output) == ("RUN", "GONE", None)
    assert plan["b"].detail == "the output of commit 1 is gone"
    assert (plan["a"].action, plan["a"].reason) == ("SKIP", "CACHED")
    pipeline.bodies()
    run = pipeline.run(b)
    assert pipeline.bodies() == ["b"] and Path(run.output_path(b)).name == "2"
    pipeline.run(b)
    assert pipeline.bodies() == []


def test_what_is_gone_and_not_needed_stays_gone(pipeline):
    a = pipeline.step("a")
    b = pipeline.step("b", a)
    shutil.rmtree(pipeline.run(b).output_path(a))
    pipeline.bodies()
    pipeline.run(b)
    assert pipeline.bodies() == []
    pipeline.run(a, b)
    assert pipeline.bodies() == ["a"], "asked for, it is made again; b would be only if a came out different"


def test_all_that_is_gone_on_the_way_is_made_again(pipeline):
    a = pipeline.step("a")
    b = pipeline.step("b", a)
    c = pipeline.step("c", b)
    run = pipeline.run(c)
    for step in (a, b, c):
        shutil.rmtree(run.output_path(step))
    pipeline.bodies()
    assert {item.reason for item in pipeline.plan(c).values()} == {"GONE"}
    assert pipeline.plan(c, force_run=("c",))["c"].reason == "FORCED"
    pipeline.run(c)
    assert pipeline.bodies() == ["a", "b", "c"]


@step_fn(kind="writes_two_files")
def write_two(config) -> None:
    import fsspec

    for name in ("one.txt", "sub/two.txt"):
        with fsspec.open(f"{config}/{name}", "w", auto_mkdir=True) as file:
            file.write(name)


def test_gone_on_every_kind_of_store(prefix):
    step = ExecutorStep("s", write_two, this_output_path())
    executor, store = Executor(ExecutorFlags(prefix=prefix, backend="inline")), open_store(prefix)
    (node,) = executor.run([step]).graph.nodes
    store.remove(attempt_path(store, node.directory, 1))
    (item,) = executor.plan([step]).plan
    assert (item.action, item.reason) == ("RUN", "GONE")
    executor.run([step])
    (item,) = executor.plan([step]).plan
    assert item.reason == "CACHED" and item.commit.number == 2


def test_an_input_of_another_name_is_named(pipeline):
    a, b = pipeline.step("raw/a"), pipeline.step("raw/b")
    pipeline.run(pipeline.step("c", a, b))
    names = {name: path.rpartition("store/")[2] for name, path in ((n, i.path) for n, i in pipeline.plan(a, b).items())}
    swapped = pipeline.plan(pipeline.step("c", b, a))["c"]
    assert swapped.reason == "CONFIG"
    assert swapped.diff == [
        ["inputs[0]", names["raw/a"], names["raw/b"]],
        ["inputs[1]", names["raw/b"], names["raw/a"]],
    ]
    fewer = pipeline.plan(pipeline.step("c", a))["c"]
    assert fewer.diff == [["inputs[1]", names["raw/b"], "(absent)"]]
    more = pipeline.plan(pipeline.step("c", a, b, pipeline.step("new") / "x"))["c"]
    assert [d[:2] for d in more.diff] == [["inputs[2]", "(absent)"]] and more.diff[0][2].startswith("new-")
    assert more.detail == f"inputs[2] (absent) -> {more.diff[0][2]}"
    changed = pipeline.plan(pipeline.step("c", a, pipeline.step("raw/b", text="other")))["c"]
    assert (changed.reason, changed.detail) == ("UPSTREAM", "raw/b: text raw/b -> other")


def test_a_key_that_was_none_is_told_from_one_that_is_not_there(pipeline):
    def step(config):
        return ExecutorStep("s", step_fn(kind="nothing")(lambda config: None), config)

    pipeline.run(step({"a": 1, "b": None}))
    plan = pipeline.plan(step({"a": 1}))["s"]
    assert (plan.reason, plan.detail) == ("CONFIG", "b None -> (absent)")


def test_outputs_of_an_earlier_schema_are_explained(pipeline):
    a = pipeline.step("a")
    pipeline.run(a)
    (path,) = pipeline.prefix.glob("a-*/commits/000001.json")
    commit = json.loads(path.read_text())
    commit["payload"]["schema"] = 1
    commit["fingerprint"] = "0123456789" + commit["fingerprint"][10:]
    path.write_text(json.dumps(commit))
    path.parents[1].rename(pipeline.prefix / "a-0123456789")
    plan = pipeline.plan(a)["a"]
    assert (plan.reason, plan.detail) == ("VERSION", "the format of identities changed: schema 1 -> 2")


def test_a_file_that_is_written_and_put_back_while_the_step_runs_fails_it(pipeline, data, capsys):
    """As `git stash` and `git stash pop` do: what the step read in between is not known."""
    with pytest.raises(RunFailed):
        pipeline.run(ExecutorStep("copied", copy, CopyConfig(data, edits={str(data): "ONE"})))
    assert "was written to or replaced while the step ran" in " ".join(capsys.readouterr().out.split())
    run = pipeline.run(step := ExecutorStep("copied", copy, CopyConfig(data)))
    assert copied(run, step) == "ONE after 0"


def test_a_step_does_not_run_from_an_input_that_is_not_whole(pipeline):
    first = pipeline.step("a")
    output = Path(pipeline.run(first).output_path(first))
    text = (output / "text.txt").read_text()
    for damage in (lambda: (output / "text.txt").unlink(), lambda: (output / "text.txt").write_text(text + "more")):
        damage()
        with pytest.raises(RunFailed):
            pipeline.run(pipeline.step("b", first))
        assert "b" not in pipeline.bodies()
    (output / "text.txt").write_text(text)
    pipeline.run(pipeline.step("b", first))


def test_a_function_that_was_edited_since_the_plan_was_made_fails_the_step(tmp_path):
    """A worker of Ray imports what is there when it starts; the identity stands for what was there before."""
    (tmp_path / "helper.py").write_text("def f(x):\n    return x + 1\n")
    (tmp_path / "script.py").write_text(_EDITED)
    script = [sys.executable, "script.py", "--prefix", "store"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "config.fn: the source has changed since the plan was made" in " ".join(done.stdout.split())
    assert not list(tmp_path.glob("store/use-*/commits/*"))
    again = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [path.read_text() for path in tmp_path.glob("store/use-*/latest/y")] == ["110"]


_EDITED = """
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from marin_sft import ExecutorStep, executor_main, output_path_of, this_output_path
import helper

@dataclass(frozen=True)
class EditConfig:
    output_path: str = this_output_path()

@dataclass(frozen=True)
class UseConfig:
    source: str
    fn: Any
    output_path: str = this_output_path()

def edit(config):
    Path("helper.py").write_text("def f(x):\\n    return x + 100\\n")
    Path(config.output_path, "x").write_text("10")

def use(config):
    Path(config.output_path, "y").write_text(str(config.fn(int(Path(config.source, "x").read_text()))))

first = ExecutorStep("edit", edit, EditConfig())
if __name__ == "__main__":
    executor_main(steps=[ExecutorStep("use", use, UseConfig(output_path_of(first), helper.f))])
"""
