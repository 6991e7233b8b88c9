"""Whole launches, inline: what runs, what does not, and what is said about it."""

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marin_sft import progress
from marin_sft.errors import GraphError, PreviousTaskFailedError, RunFailed, StoreError
from marin_sft.execution.console import TextConsole
from marin_sft.execution.executor import (
    Executor,
    ExecutorFlags,
    ExecutorStep,
    execution_only,
    executor_main,
    output_path_of,
    step_fn,
    this_output_path,
)
from marin_sft.execution.local_store import LocalStore
from marin_sft.execution.view import print_plan
from marin_sft.run.verification import verify_outputs


def reasons(plan):
    return {name: (item.action, item.reason) for name, item in plan.items()}


def diamond(pipeline, **c_fields):
    a = pipeline.step("raw/a")
    b, c = pipeline.step("tok/b", a), pipeline.step("tok/c", a, **c_fields)
    return pipeline.step("train/d", b, c)


def test_first_run_second_run(pipeline):
    d = diamond(pipeline)
    run = pipeline.run(d)
    assert pipeline.bodies() == ["a", "b", "c", "d"]
    assert Path(run.output_path(d), "text.txt").read_text() == "train/dtok/braw/atok/craw/a"
    before = {p: p.stat().st_mtime_ns for p in pipeline.prefix.rglob("*") if "_runs" not in p.parts}
    again = pipeline.run(diamond(pipeline))
    assert pipeline.bodies() == []
    assert [result.status for result in again.results] == ["cached"] * 4
    assert before == {p: p.stat().st_mtime_ns for p in pipeline.prefix.rglob("*") if "_runs" not in p.parts}


def test_layout_of_an_output(pipeline):
    a = pipeline.step("raw/a")
    output = Path(pipeline.run(a).output_path(a))
    directory = output.parent
    assert (directory / "latest").resolve() == output.resolve()
    assert sorted(p.name for p in output.iterdir()) == [".files.json", ".log", ".record.json", "text.txt"]
    commit = json.loads((directory / "commits" / "000001.json").read_text())
    assert commit["payload"]["config"] == {
        "text": "raw/a", "inputs": [], "rate": 0.001, "fail_while": None, "output_path": {"$output": None}
    }  # fmt: skip
    record = json.loads((output / ".record.json").read_text())
    assert record["config"]["output_path"] == str(output) and record["exit"] == "ok"
    assert record["launch"]["packages"]["rich"]


def test_an_edit_reruns_what_it_changes_and_says_why(pipeline):
    pipeline.run(diamond(pipeline))
    pipeline.bodies()
    plan = pipeline.plan(diamond(pipeline, rate=0.002))
    assert reasons(plan) == {
        "raw/a": ("SKIP", "CACHED"),
        "tok/b": ("SKIP", "CACHED"),
        "tok/c": ("RUN", "CONFIG"),
        "train/d": ("RUN", "UPSTREAM"),
    }
    assert plan["tok/c"].diff == [["rate", 0.001, 0.002]]
    assert plan["tok/c"].detail == "rate 0.001 -> 0.002"
    assert plan["train/d"].detail == "tok/c: rate 0.001 -> 0.002"
    pipeline.run(diamond(pipeline, rate=0.002))
    assert pipeline.bodies() == ["c", "d"]
    pipeline.run(diamond(pipeline))
    assert pipeline.bodies() == [], "the first outputs are still there"


def test_version_and_source(pipeline):
    def make(version: int, text: str):
        def body(config):
            print(text)

        body.__qualname__ = "body"
        return ExecutorStep("s", step_fn(kind="body", version=version)(body), {"out": this_output_path()})

    pipeline.run(make(1, "x"))
    assert reasons(pipeline.plan(make(2, "x"))) == {"s": ("RUN", "VERSION")}
    assert pipeline.plan(make(2, "x"))["s"].detail == "body version 1 -> body version 2"

    @step_fn(kind="body")
    def edited(config):
        print("another source of the same kind")

    plan = pipeline.plan(ExecutorStep("s", edited, {"out": this_output_path()}))
    assert reasons(plan) == {"s": ("SKIP", "CACHED")} and plan["s"].detail == "source changed since"


def test_force_run_stops_where_nothing_changed(pipeline):
    d = diamond(pipeline)
    pipeline.run(d)
    pipeline.bodies()
    plan = pipeline.plan(d, force_run=("tok/b",))
    assert reasons(plan)["tok/b"] == ("RUN", "FORCED") and reasons(plan)["train/d"] == ("IF_CHANGED", "UPSTREAM")
    run = pipeline.run(d, force_run=("tok/b",))
    assert pipeline.bodies() == ["b"]
    assert [result.status for result in run.results] == ["cached", "ran", "cached", "cached"]
    pipeline.run(d, force_run=("tok/*",), cascade=True)
    assert pipeline.bodies() == ["b", "c", "d"]
    pipeline.run(d)
    assert pipeline.bodies() == []
    for call in (pipeline.plan, pipeline.run):
        with pytest.raises(GraphError, match="--cascade does nothing without --force_run"):
            call(d, cascade=True)


@step_fn(kind="timed", log=("speed.txt", "traces/*"))
def timed(config):
    Path(config["out"], "text.txt").write_text(config["text"])
    Path(config["out"], "speed.txt").write_text(str(time.monotonic_ns()))
    Path(config["out"], "traces").mkdir()
    Path(config["out"], "traces", f"{time.monotonic_ns()}.txt").write_text("a trace")


@step_fn(kind="plot")
def plot(config):
    Path(config["out"], "plot.txt").write_text("".join(path.read_text() for path in Path(config["of"]).rglob("*.txt")))


def test_a_log_is_no_result(pipeline):
    """Steps that use the output, or a file that is no log, stay cached; those that name a file of the log rerun."""
    made = ExecutorStep("made", timed, {"text": "same", "out": this_output_path()})
    places = {"text": "text.txt", "speed": "speed.txt", "traces": "traces", "glob": "*.txt"}
    of = {"all": output_path_of(made), **{name: made / place for name, place in places.items()}}
    plots = [ExecutorStep(name, plot, {"of": place, "out": this_output_path()}) for name, place in of.items()]
    pipeline.run(*plots)
    run = pipeline.run(*plots, force_run=("made",))
    assert {result.item.node.name for result in run.results if result.status == "ran"} == {
        *("made", "speed", "traces", "glob")
    }
    assert {result.status for result in pipeline.run(*plots).results} == {"cached"}
    store = LocalStore(str(pipeline.prefix))
    assert {verified.result for verified in verify_outputs(store, None)} == {"ok"}
    Path(str(run.output_path(made, "speed.txt"))).write_text("another")
    assert [list(verified.files) for verified in verify_outputs(store, "made")] == [["speed.txt"]]


@dataclasses.dataclass(frozen=True)
class CounterConfig:
    counter: str
    output_path: str = this_output_path()


@step_fn(kind="counting")
def counting(config: CounterConfig) -> None:
    """Another output each time: as a body that reads the clock would."""
    count = int(Path(config.counter).read_text()) + 1
    Path(config.counter).write_text(str(count))
    Path(config.output_path, "text.txt").write_text(str(count))


def test_a_forced_step_with_another_output_reruns_its_users(pipeline, tmp_path):
    (tmp_path / "count").write_text("0")
    a = ExecutorStep("a", counting, CounterConfig(str(tmp_path / "count")))
    b = pipeline.step("b", a)
    c = pipeline.step("c", b)
    pipeline.run(c)
    pipeline.run(c, force_run=("a",))
    assert pipeline.bodies() == ["b", "c", "b", "c"]
    # Forced alone, the change waits for the next launch, whatever that is.
    pipeline.run(c, force_run=("a",), run_only=("^a$",))
    assert pipeline.bodies() == []
    assert reasons(pipeline.plan(c)) == {
        "a": ("SKIP", "CACHED"),
        "b": ("RUN", "UPSTREAM"),
        "c": ("IF_CHANGED", "UPSTREAM"),
    }
    pipeline.run(c)
    assert pipeline.bodies() == ["b", "c"]


def test_a_committed_step_needs_none_of_its_ancestors(pipeline):
    d = diamond(pipeline)
    pipeline.run(d)
    for gone in ("raw", "tok"):
        shutil.rmtree(pipeline.prefix / gone)
    pipeline.bodies()
    assert pipeline.plan(d)["tok/b"].detail == "not needed: the steps that use it are committed"
    pipeline.run(d)
    assert pipeline.bodies() == []
    pipeline.run(d, force_run=("train/d",))
    assert pipeline.bodies() == ["a", "b", "c", "d"], "now they are needed"


def test_rebuilt_inputs_trigger_nothing(pipeline):
    d = diamond(pipeline)
    pipeline.run(d)
    shutil.rmtree(pipeline.prefix / "tok")
    pipeline.run(d.config.inputs[0])
    pipeline.bodies()
    pipeline.run(d)
    assert pipeline.bodies() == []


def test_failure_keeps_going_and_is_retried(pipeline, tmp_path, capsys):
    stop = tmp_path / "stop"
    stop.touch()
    a = pipeline.step("a")
    bad = pipeline.step("bad", a, fail_while=str(stop))
    good, end = pipeline.step("good", a), pipeline.step("end", bad)
    with pytest.raises(RunFailed):
        pipeline.run(end, good)
    assert pipeline.bodies() == ["a", "bad", "good"]
    text = capsys.readouterr().out
    assert f"bad failed: ValueError: {stop} exists" in text
    assert "in write: raise ValueError" in text and "/1/.log" in text and "--run_only '^bad$'" in text
    assert reasons(pipeline.plan(end))["bad"] == ("RUN", "RETRY")
    with pytest.raises(PreviousTaskFailedError, match="step 'bad': attempt 1 failed: ValueError"):
        pipeline.run(end, force_run_failed=False)
    stop.unlink()
    pipeline.run(end)
    assert pipeline.bodies() == ["bad", "end"]


def test_what_an_earlier_attempt_failed_of_is_told_in_two_lines_of_80_columns(pipeline, tmp_path):
    stop = tmp_path / f"one\n  two {'three ' * 30}"
    stop.touch()
    bad = pipeline.step("a_step_with_a_rather_long_name/bad", fail_while=str(stop))
    with pytest.raises(RunFailed):
        pipeline.run(bad)
    plan = pipeline.run(pipeline.step("end", bad), dry_run=True).plan

    def shown(width: int) -> list[str]:
        screen = io.StringIO()
        print_plan(TextConsole(file=screen, width=width, soft_wrap=width > 1000), plan, None)
        return [line.rstrip() for line in screen.getvalue().splitlines()]

    lines = shown(80)
    assert max(map(len, lines)) <= 80
    start = lines.index("step                                action  reason")
    assert lines[start + 1] == "a_step_with_a_rather_long_name/bad  RUN     RETRY"
    assert lines[start + 2].startswith("  attempt 1 failed: ValueError:")
    (end,) = [n for n, line in enumerate(lines) if line.startswith("end ")]
    assert lines[end - 1].endswith("...") and end - start <= 5
    (row,) = [line for line in shown(10_000) if "/bad" in line and "RETRY" in line]
    assert "/one; two three" in row and "...  a_step_with" in row and len(row) < 280


def test_fail_fast(pipeline, tmp_path):
    (tmp_path / "stop").touch()
    bad = pipeline.step("bad", fail_while=str(tmp_path / "stop"))
    with pytest.raises(RunFailed):
        pipeline.run(bad, pipeline.step("good"), fail_fast=True)
    assert pipeline.bodies() == ["bad"]


def test_a_failed_forced_rerun_leaves_the_old_output_and_says_so(pipeline, tmp_path):
    stop = tmp_path / "stop"
    a = pipeline.step("a", fail_while=str(stop))
    first = pipeline.run(a).output_path(a)
    stop.touch()
    with pytest.raises(RunFailed):
        pipeline.run(a, force_run=("a",))
    plan = pipeline.plan(a)["a"]
    assert (plan.action, plan.output) == ("SKIP", first)
    assert plan.detail == "forced rerun failed (attempt 2), commit 1 stands"
    stop.unlink()
    assert pipeline.plan(a, force_run=("a",))["a"].detail == "continues attempt 2"
    pipeline.run(a, force_run=("a",))
    assert Path(pipeline.plan(a)["a"].output).name == "3"


def test_run_only(pipeline):
    d = diamond(pipeline)
    pipeline.run(d, run_only=("b$",))
    assert pipeline.bodies() == ["a", "b"]
    pipeline.run(d, run_only=("^tok/",))
    assert pipeline.bodies() == ["c"]


def test_cascade_stays_within_run_only(pipeline):
    a = pipeline.step("a")
    steps = [pipeline.step("c", pipeline.step("b", a)), pipeline.step("d", a)]
    pipeline.run(*steps)
    pipeline.bodies()
    pipeline.run(*steps, force_run=("a",), cascade=True, run_only=("^b$",))
    assert pipeline.bodies() == ["a", "b"]
    pipeline.run(*steps, force_run=("a",), cascade=True)
    assert sorted(pipeline.bodies()) == ["a", "b", "c", "d"]


def test_an_optional_input_may_fail_and_counts_once_it_is_there(pipeline, tmp_path):
    stop = tmp_path / "stop"
    stop.touch()
    bad = pipeline.step("bad", fail_while=str(stop))
    good, after_bad = pipeline.step("good"), pipeline.step("after_bad", bad)
    steps = [pipeline.step("table", good.optional(), after_bad.optional()), pipeline.step("best", good, after_bad)]
    with pytest.raises(RunFailed):
        pipeline.run(*steps)
    assert sorted(pipeline.bodies()) == ["bad", "good", "table"]
    table = steps[:1]
    run = pipeline.run(*table)
    assert pipeline.bodies() == [], "it stands without what failed"
    assert Path(run.output_path(table[0], "text.txt")).read_text() == "tablegood"
    with pytest.raises(RunFailed):
        pipeline.run(*table, force_run=("bad",))
    assert pipeline.bodies() == ["bad"], "and still does when it fails once more"
    stop.unlink()
    assert pipeline.plan(*table, force_run=("bad", "after_bad"))["table"].action == "IF_CHANGED"
    run = pipeline.run(*table, force_run=("bad", "after_bad"))
    assert sorted(pipeline.bodies()) == ["after_bad", "bad", "table"]
    assert Path(run.output_path(table[0], "text.txt")).read_text() == "tablegoodafter_badbad"


def test_an_optional_input_that_another_launch_has_made_counts(pipeline, tmp_path):
    stop = tmp_path / "stop"
    stop.touch()
    bad = pipeline.step("bad", fail_while=str(stop))
    table = pipeline.step("table", bad.optional())
    with pytest.raises(RunFailed):
        pipeline.run(table)
    stop.unlink()
    pipeline.run(bad)
    assert reasons(pipeline.plan(table))["table"] == ("RUN", "UPSTREAM")


@pytest.mark.parametrize("order", [0, 1])
def test_nonblocking_inputs(pipeline, order):
    base = pipeline.step("base")
    looked_at = pipeline.step("looked_at", base)
    watcher = pipeline.step("watcher", text=looked_at.nonblocking())
    pipeline.run(watcher)
    assert pipeline.bodies() == ["watcher"], "nonblocking inputs are not run"
    user = pipeline.step("user", looked_at)
    again = dataclasses.replace(watcher, name="watcher2")
    pipeline.run(*[again, user][:: 1 if order else -1])
    assert sorted(pipeline.bodies()) == ["base", "looked_at", "user", "watcher2"]


def test_override_output_path(pipeline):
    a = pipeline.step("a", override_output_path="fixed/a")
    assert Path(pipeline.run(a).output_path(a)) == pipeline.prefix / "fixed/a/1"
    changed = pipeline.step("a", rate=0.5, override_output_path="fixed/a")
    plan = pipeline.plan(changed)["a"]
    assert (plan.action, plan.reason, plan.diff) == ("RUN", "CONFIG", [["rate", 0.001, 0.5]])
    assert Path(pipeline.run(changed).output_path(changed)) == pipeline.prefix / "fixed/a/2"


def test_unknown_names_run_nothing(pipeline):
    with pytest.raises(GraphError, match=r"--force_run 'tok/bb': no step has that name; did you mean 'tok/b'\?"):
        pipeline.run(diamond(pipeline), force_run=("tok/bb",))
    with pytest.raises(GraphError, match="--run_only 'zzz': matches no step"):
        pipeline.run(diamond(pipeline), run_only=("zzz",))
    assert not pipeline.prefix.exists()


def test_dry_run_writes_nothing(pipeline, capsys):
    pipeline.run(diamond(pipeline), dry_run=True)
    assert not pipeline.prefix.exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Plan: 4 steps, 4 to run.")
    assert [line.split()[:3] for line in lines[2:]] == [
        [name, "RUN", "NEW"] for name in ("raw/a", "tok/b", "tok/c", "train/d")
    ]


def test_unwritable_prefix(pipeline, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        pipeline.run(pipeline.step("a"), prefix=str(tmp_path / "file"))


def test_hardcoded_paths(pipeline):
    from marin_sft.execution.executor import InputName

    pipeline.prefix.joinpath("given").mkdir(parents=True)
    pipeline.prefix.joinpath("given/text.txt").write_text("given")
    a = pipeline.step("a", InputName.hardcoded("given"))
    assert Path(pipeline.run(a).output_path(a, "text.txt")).read_text() == "agiven"


def test_an_interrupted_attempt_is_continued(pipeline, tmp_path):
    """A step killed in its body: the next launch sees that the process is gone and resumes from its directory."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from marin_sft import ExecutorStep, earlier_attempts, executor_main, step_fn, this_output_path\n"
        "@step_fn(kind='resuming')\n"
        "def body(config):\n"
        "    earlier = [Path(p, 'part.txt').read_text() for p in config['earlier']]\n"
        "    Path(config['out'], 'part.txt').write_text('+'.join(['part', *earlier]))\n"
        "    if len(earlier) < 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "config = {'out': this_output_path(), 'earlier': earlier_attempts()}\n"
        "executor_main(steps=[ExecutorStep('s', body, config)])\n"
    )
    command = [sys.executable, str(script), "--backend", "inline", "--prefix", str(tmp_path / "store")]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "RESUME continues attempt 2" in done.stdout
    (directory,) = (tmp_path / "store").glob("s-*")
    assert (directory / "latest" / "part.txt").read_text() == "part+part+part+part"


def test_exit_codes_and_messages(pipeline, tmp_path, monkeypatch, capsys):
    def code_of(argv, *steps):
        with pytest.raises(SystemExit) as exit_info:
            executor_main(list(steps), argv=["--prefix", str(tmp_path / "s"), "--backend", "inline", *argv])
        return exit_info.value.code

    monkeypatch.chdir(tmp_path)
    (tmp_path / "stop").touch()
    assert code_of(["--force_run", "x"], pipeline.step("a")) == 2
    assert code_of(["--dry_rum"], pipeline.step("a")) == 2
    assert "unknown argument '--dry_rum'; did you mean '--dry_run'?" in capsys.readouterr().err
    assert code_of([], pipeline.step("a", fail_while=str(tmp_path / "stop"))) == 1

    def interrupt(config):
        os.kill(os.getpid(), signal.SIGTERM)

    assert code_of([], ExecutorStep("i", interrupt, None)) == 130


def test_system_exit_in_a_body_is_a_failure(pipeline, capsys):
    def leave(config):
        sys.exit("enough")

    with pytest.raises(RunFailed):
        pipeline.run(ExecutorStep("s", leave, None))
    assert "s failed: SystemExit: enough" in capsys.readouterr().out


def test_log_holds_the_output_of_the_body(pipeline):
    def talk(config):
        print("to stdout")
        print("to stderr", file=sys.stderr)

    step = ExecutorStep("s", talk, None)
    log = Path(pipeline.run(step).output_path(step), ".log")
    assert log.read_text() == "to stdout\nto stderr\n"


def test_figures_of_metrics_json_are_shown(pipeline, capsys):
    def measure(config):
        Path(config, "metrics.json").write_text(json.dumps({"exact_match": 0.875, "prompts": 200, "note": "x"}))

    pipeline.run(ExecutorStep("s", measure, this_output_path()))
    assert "exact_match 0.875, prompts 200" in capsys.readouterr().out


def test_the_closing_table_says_where_dropped_rows_are(pipeline, capsys):
    def body(config):
        Path(config["out"], "dropped.jsonl").write_text(config["dropped"])

    steps = [
        ExecutorStep(n, body, {"out": this_output_path(), "dropped": d}) for n, d in (("some", "{}"), ("none", ""))
    ]
    run = pipeline.run(*steps)
    told = [line for line in capsys.readouterr().out.splitlines() if "dropped.jsonl" in line]
    assert told == [f"some: rows were dropped; some of them are in {run.output_path(steps[0], 'dropped.jsonl')}"]


def test_memory_store_end_to_end(tmp_path):
    import fsspec

    def body(config):
        with fsspec.open(f"{config['out']}/x.txt", "w") as file:
            file.write("".join(fsspec.open(p).open().read().decode() for p in config["inputs"]) + "x")

    a = ExecutorStep("a", step_fn(kind="b")(body), {"out": this_output_path(), "inputs": []})
    b = ExecutorStep("b", a.fn, {"out": this_output_path(), "inputs": [a / "x.txt"]})
    executor = Executor(ExecutorFlags(prefix=f"memory://{tmp_path.name}", backend="inline"))
    run = executor.run([b])
    with fsspec.open(run.output_path(b, "x.txt")) as file:
        assert file.read() == b"xx"
    assert [result.status for result in executor.run([b]).results] == ["cached", "cached"]


@dataclasses.dataclass(frozen=True)
class CheckedConfig:
    source: str
    output_path: str = this_output_path()
    doubled: str = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "doubled", f"{self.source} {self.source}")
        if isinstance(self.source, str) and self.source.endswith("/refused"):
            raise ValueError("not this one")


def test_a_config_s_own_checks_see_the_resolved_values(pipeline, capsys):
    def body(config):
        assert config.doubled == f"{config.source} {config.source}"

    a = pipeline.step("a")
    pipeline.run(ExecutorStep("good", body, CheckedConfig(a / "accepted")))
    with pytest.raises(RunFailed):
        pipeline.run(ExecutorStep("bad", body, CheckedConfig(a / "refused")))
    assert "bad failed: cannot be started: ValueError: not this one" in capsys.readouterr().out


def test_a_store_that_fails_under_an_attempt_fails_the_step(pipeline, capsys):
    def body(config):
        (Path(config).parent / "commits").write_text("in the way of the commit")

    with pytest.raises(RunFailed):
        pipeline.run(ExecutorStep("s", body, this_output_path()), pipeline.step("other"))
    assert "s failed: cannot be carried out: " in capsys.readouterr().out
    assert pipeline.bodies() == ["other"]


def test_other_settings_of_the_same_result_are_named(pipeline):
    def body(config): ...

    @dataclasses.dataclass(frozen=True)
    class Settings:
        rate: float = 0.1
        steps_per_log: int = execution_only(default=10)

    pipeline.run(ExecutorStep("s", body, Settings()))
    plan = pipeline.plan(ExecutorStep("s", body, Settings(steps_per_log=20)))["s"]
    assert (plan.action, plan.detail) == ("SKIP", "same result, different settings: steps_per_log 10 -> 20")


def test_an_input_that_vanishes_during_the_launch_is_named(pipeline, capsys):
    a = pipeline.step("a")
    output = pipeline.run(a).output_path(a)

    @step_fn(kind="remover")
    def remove(config):
        shutil.rmtree(output)
        Path(config, "text.txt").write_text("")

    remover = ExecutorStep("remover", remove, this_output_path())
    with pytest.raises(RunFailed):
        pipeline.run(pipeline.step("b", a, remover))
    text = capsys.readouterr().out
    assert f"its input 'a' is committed, but the output {output} is gone" in text
    assert pipeline.bodies() == ["a"]
    pipeline.run(pipeline.step("b", a, remover))
    assert pipeline.bodies() == ["a", "b"], "the next plan has seen it"


def test_a_full_disk_commits_nothing(tmp_path, capsys):
    """On a file system of its own of 1 MB: what does not fit fails the step, and the next launch goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:

        def fill(config):
            Path(config["out"], "big").write_bytes(bytes(config["size"]))

        def step(size):
            return ExecutorStep("s", fill, {"out": this_output_path(), "size": size})

        executor = Executor(ExecutorFlags(prefix=str(disk / "store"), backend="inline"))
        with pytest.raises(RunFailed):
            executor.run([step(2_000_000)])
        assert "No space left on device" in capsys.readouterr().out
        assert not list(disk.glob("store/s-*/commits/*"))
        for big in disk.glob("store/s-*/1/big"):
            big.unlink()
        assert not executor.run([step(100)]).failed
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_progress_is_kept_in_the_log(pipeline):
    def body(config):
        for done in range(5):
            progress.report(done + 1, 5, "rows", loss=0.5)

    step = ExecutorStep("s", body, None)
    log = Path(pipeline.run(step).output_path(step), ".log").read_text()
    assert log == "1/5 rows  loss 0.5\n5/5 rows  loss 0.5\n"


def test_progress_that_does_not_change_is_logged_once(pipeline, monkeypatch):
    def body(config):
        for done in (0, 0, 0, 1, 1, 2, 2):
            progress.report(done, 2, "hosts")

    monkeypatch.setattr("marin_sft.execution.beat.LOG_SECONDS", 0.0)
    step = ExecutorStep("s", body, None)
    log = Path(pipeline.run(step).output_path(step), ".log").read_text()
    assert log == "0/2 hosts\n1/2 hosts\n2/2 hosts\n"


@pytest.mark.parametrize("kind, said", [("dangling", "is a broken link"), ("fifo", "is neither a file nor")])
def test_an_output_with_what_is_no_file_fails_the_step(pipeline, capsys, kind, said):
    def odd(config):
        path = os.path.join(config["out"], "odd")
        os.symlink("nowhere", path) if kind == "dangling" else os.mkfifo(path)

    step = ExecutorStep("odd", step_fn(kind="odd")(odd), {"out": this_output_path()})
    with pytest.raises(RunFailed):
        pipeline.run(step)
    assert said in " ".join(capsys.readouterr().out.split())
    assert [path.name for path in pipeline.prefix.glob("odd-*/1/.failure.json")]


def test_where_a_link_to_a_directory_leads_is_part_of_an_output(pipeline, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()

    def linked(config):
        os.symlink(tmp_path / (tmp_path / "target").read_text(), os.path.join(config["out"], "link"))

    step = ExecutorStep("linked", step_fn(kind="linked")(linked), {"out": this_output_path()})
    digests = []
    for target in ("one", "two", "two"):
        (tmp_path / "target").write_text(target)
        pipeline.run(step, force_run=["linked"])
        commits = sorted(pipeline.prefix.glob("linked-*/commits/*.json"))
        digests.append(json.loads(commits[-1].read_text())["digest"])
    assert digests[0] != digests[1] == digests[2]


def test_a_commit_that_was_removed_is_not_the_one_that_its_users_were_made_from(pipeline, tmp_path):
    """A damaged newest commit is removed, as its error advises: an older output counts, and is other than theirs."""
    text = tmp_path / "text"
    text.write_text("old")

    def read(config):
        Path(config["out"], "text.txt").write_text(text.read_text())

    source = ExecutorStep("source", step_fn(kind="read_text")(read), {"out": this_output_path()})
    user = pipeline.step("user", source)
    pipeline.run(user)
    text.write_text("new")
    pipeline.run(user, force_run=["source"])
    (newest,) = pipeline.prefix.glob("source-*/commits/000002.json")
    newest.unlink()
    assert pipeline.plan(user)["user"].action == "RUN"
