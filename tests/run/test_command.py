"""`marin-sft`: every command, as text and as JSON, after real launches."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from marin_sft.errors import RunFailed
from marin_sft.execution import local_store
from marin_sft.execution.claims import Claim, take_claim, write_beat
from marin_sft.execution.clock import now
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path, unversioned
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.stores import open_store
from marin_sft.run import command, explanation, logs
from marin_sft.run.launches import find_launch
from tests.execution.test_terminal import on_a_terminal

ROOT = Path(__file__).parents[2]


@step_fn(kind="command_write")
def write(config):
    print(f"writing {config['text']}")
    Path(config["out"], "text.txt").write_text(config["text"] + "".join(config["inputs"]))
    if Path(config["fail_while"]).exists():
        raise ValueError(Path(config["fail_while"]).read_text() or "told to fail")


@pytest.fixture
def world(tmp_path, capsys):
    """Launches under a prefix, and `marin-sft` on it: text, or `json`; both check the exit code."""
    prefix = tmp_path / "store"

    def step(name, *inputs, rate=0.001, text="x"):
        config = {"text": text, "rate": rate, "inputs": list(inputs), "out": this_output_path()}
        return ExecutorStep(name, write, {**config, "fail_while": unversioned(str(tmp_path / "stop"))})

    def launch(*steps, **flags):
        return Executor(ExecutorFlags(prefix=str(prefix), backend="inline", **flags)).run(list(steps))

    def call(name, *arguments, code=0):
        capsys.readouterr()
        assert command.main([name, "--prefix", str(prefix), *arguments]) == code
        return capsys.readouterr()

    def text(*arguments, code=0):
        return call(*arguments, code=code).out

    def read(*arguments, code=0):
        output = call(*arguments, "--json", code=code)
        assert output.err == ""
        return json.loads(output.out)

    return SimpleNamespace(
        prefix=prefix, step=step, launch=launch, text=text, json=read, call=call, stop=tmp_path / "stop"
    )


@pytest.fixture
def edited(world):
    """raw/a -> b, then again after an edit of raw/a."""
    world.launch(world.step("b", world.step("raw/a")))
    time.sleep(0.002)  # commits carry milliseconds
    return world, world.launch(world.step("b", world.step("raw/a", rate=0.5)))


def squeezed(text):
    """Without what aligns columns."""
    return " ".join(text.split())


def test_status(edited):
    world, _ = edited
    lines = world.text("status").splitlines()
    assert lines[0].split() == ["state", "age", "took", "step"]
    assert [line.split()[0] for line in lines[1:5]] == ["COMMITTED"] * 4
    assert lines[5] == f"4 steps under {world.prefix}: 4 committed" and len(lines) == 6
    assert len(world.json("status", "raw/*")) == 2 and len(world.json("status", "b")) == 2
    item = world.json("status", "raw/a")[0]
    assert item["state"] == "COMMITTED" and item["name"] == "raw/a" and item["output"] == f"{item['path']}/1"
    assert 0 <= item["seconds"] < 60 and 0 <= item["age"] < 60
    error = world.call("status", "raw/b", code=2).err
    assert error.startswith("error: no step matches 'raw/b'") and "did you mean 'raw/a'?" in error


def test_status_follows_the_newest_launch_and_shows_figures(world):
    def measure(config):
        Path(config["out"], "metrics.json").write_text('{"loss": 0.5, "name": "x", "step": 7}')

    last = world.step("a_last", world.step("m_middle", world.step("z_first")))
    world.launch(world.step("b_other"))
    world.launch(dataclasses.replace(last, fn=step_fn(kind="measure")(measure)))
    found = world.json("status")
    assert [item["name"] for item in found] == ["z_first", "m_middle", "a_last", "b_other"]
    assert [item["figures"] for item in found] == ["", "", "loss 0.5, step 7", ""]
    assert "a_last" in world.text("status") and "loss 0.5, step 7" in world.text("status", "a_last")


def test_status_of_what_fails_runs_and_waits(world):
    world.stop.touch()
    with pytest.raises(RunFailed):
        world.launch(world.step("after", world.step("bad")))
    (bad,) = world.json("status", "bad")
    assert (bad["state"], bad["output"], bad["news"]) == ("FAILED", None, "attempt 1 failed: ValueError: told to fail")
    (after,) = world.json("status", "after")
    assert after["state"] == "ABSENT" and after["age"] is None
    store = open_store(str(world.prefix))
    claim = take_claim(store, "going-0123456789", 1, 1, "f")
    progress = {"done": 3, "total": 10, "unit": "steps", "metrics": {"loss": 0.5}}
    write_beat(store, "going-0123456789", claim, 1, progress)
    (going,) = world.json("status", "going")
    assert going["state"] == "RUNNING" and going["news"].startswith("3/10 steps  loss 0.5; attempt 1 by process ")
    write_beat(store, "going-0123456789", claim, -1, None, released=True)
    assert world.json("status", "going")[0]["state"] == "INTERRUPTED"
    assert "1 failed, 1 interrupted, 1 absent" in squeezed(world.text("status"))


def test_differences_of_outputs_of_an_earlier_schema(tmp_path):
    def payload(fingerprint):
        inputs = {"inputs": [f"{fingerprint}{'0' * 54}"]}
        return {"schema": 1, "kind": "k", "version": 1, "config": {"data": {"$input": 0, "name": "x"}}, **inputs}

    (tmp_path / "raw" / "a-0123456789" / "commits").mkdir(parents=True)
    (tmp_path / "raw" / "a-0123456789" / "commits" / "000001.json").write_text("{}")
    found = explanation.differences(open_store(str(tmp_path)), payload("0123456789"), payload("9876543210"))
    assert found == [["data", "raw/a-0123456789", "9876543210"]]


def test_a_difference_in_a_file_is_one_of_its_content(tmp_path):
    def payload(digest):
        return {"schema": 1, "kind": "x", "version": "1", "config": {"data": [{"$content": digest, "suffix": ".txt"}]}}

    found = explanation.differences(open_store(str(tmp_path)), payload("01ab"), payload("23cd"))
    assert found == [["data[0] content", "01ab", "23cd"]]


def test_verify(world):
    steps = {name: world.step(f"raw/{name}", text=name) for name in ("whole", "edited", "shortened", "gone", "more")}
    run = world.launch(*steps.values())
    files = {name: Path(run.output_path(step, "text.txt")) for name, step in steps.items()}
    assert {item["result"] for item in world.json("verify")} == {"ok"}
    assert squeezed(world.text("verify")).endswith("5 outputs under " + f"{world.prefix}: 5 ok")
    files["edited"].write_text("edixed")
    files["shortened"].write_text("short")
    shutil.rmtree(files["gone"].parent)
    (files["more"].parent / "b.txt").write_text("")
    found = {item["name"].removeprefix("raw/"): item for item in world.json("verify", code=1)}
    assert {name: (item["result"], item["files"]) for name, item in found.items()} == {
        "whole": ("ok", {}),
        "edited": ("changed", {"text.txt": "other contents"}),
        "shortened": ("changed", {"text.txt": "9 bytes when committed, 5 now"}),
        "gone": ("gone", {}),
        "more": ("changed", {"b.txt": "added"}),
    }
    text = squeezed(world.text("verify", code=1))
    assert "1 ok, 3 changed, 1 gone" in text and "text.txt: 9 bytes when committed, 5 now" in text
    assert "To rerun a step, use --force_run of the experiment" in text
    assert [item["name"] for item in world.json("verify", "raw/who*")] == ["raw/whole"]
    assert "did you mean 'raw/whole'?" in world.call("verify", "raw/whale", code=2).err
    files["edited"].unlink()
    assert world.json("verify", "edited", code=1)[0]["files"] == {"text.txt": "gone"}
    (files["edited"].parent / ".files.json").write_text("[")
    assert world.json("verify", "edited", code=1)[0]["files"] == {".files.json": "does not match the commit"}


def test_verify_names_a_commit_that_cannot_be_read(world):
    step = world.step("raw/a")
    world.launch(step)
    (commit,) = world.prefix.glob("raw/a-*/commits/000001.json")
    commit.write_text("")
    (found,) = world.json("verify", code=1)
    assert (found["name"], found["result"]) == ("raw/a", "changed") and str(commit) in found["files"]["commit"]


def test_verify_says_of_what_there_are_no_digests(world, monkeypatch):
    monkeypatch.setattr(local_store, "READ_BACK_LIMIT", 0)
    step = world.step("large")
    output = Path(world.launch(step).output_path(step, "text.txt"))
    assert [item["result"] for item in world.json("verify")] == ["unverifiable"]
    output.write_text("longer")
    assert [item["result"] for item in world.json("verify", code=1)] == ["changed"]


def test_an_empty_prefix(world):
    world.prefix.mkdir()
    assert world.json("status") == [] and world.json("runs") == [] and world.json("gc") == []
    assert squeezed(world.text("status")).startswith("0 steps under")
    assert "there are no steps under" in world.call("path", "x", code=2).err


@pytest.mark.parametrize(
    "argv",
    [
        ["status", "--prefix", ""],
        ["gc", "--delete", "--prefix="],
        ["preview", "--tokenizer", "t", "--data", ""],
        ["preview", "--tokenizer", "", "--data", "x"],
        ["import", "", "-o", "x.py"],
        ["import", "x.yaml", "-o", ""],
        ["sft", "--model", "m", "--data", "x.jsonl", "--prefix", ""],
        ["sft", "--model", "m", "--data", "x.jsonl", "--output_dir", ""],
        ["sft", "--config", "", "--model", "m"],
    ],
)
def test_an_empty_path_is_not_the_working_directory(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(argv) == 2
    assert "got an empty" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_prefix_that_is_not_there(world):
    """It may be misspelt: not the same as one with nothing in it."""
    world.prefix.with_name("stores").mkdir()
    for words in (("status",), ("runs",), ("gc", "--delete"), ("path", "x")):
        error = world.call(*words, code=2).err
        assert "store: no such directory" in error and "did you mean" in error and "stores'?" in error
    assert not world.prefix.exists()


def test_why(edited):
    world, _ = edited
    facts = world.json("why", "raw/a")
    assert facts["made_by"]["reason"] == "CONFIG" and facts["made_by"]["diff"] == [["rate", 0.001, 0.5]]
    assert facts["nearest"]["diff"] == [["rate", 0.5, 0.001]][::-1] or facts["nearest"]["diff"] == [
        ["rate", 0.001, 0.5]
    ]
    downstream = world.json("why", "b")
    assert downstream["made_by"]["detail"] == "raw/a: rate 0.001 -> 0.5"
    assert [item["now"] for item in downstream["inputs"]] == ["unchanged"]
    text = squeezed(world.text("why", "b"))
    assert "UPSTREAM raw/a: rate 0.001 -> 0.5" in text and "marin-sft plan SCRIPT" in text
    world.launch(world.step("b", world.step("raw/a", rate=0.5)))
    facts = world.json("why", "b")
    assert facts["last_launch"]["reason"] == "CACHED" and facts["made_by"]["reason"] == "UPSTREAM"
    assert "(cached): CACHED" in squeezed(world.text("why", "b"))


def test_why_of_a_failure_and_of_a_pending_rerun(world):
    a = world.step("a")
    world.launch(a)
    world.stop.touch()
    with pytest.raises(RunFailed):
        world.launch(a, force_run=("a",))
    facts = world.json("why", "a")
    assert facts["state"] == "COMMITTED" and facts["failure"]["error"] == "ValueError: told to fail"
    assert "in write: raise ValueError" in facts["failure"]["location"] and facts["last_launch"]["result"] == "failed"
    assert facts["pending"] == "forced rerun: attempt 2 failed, commit 1 stands; --force_run again continues it"
    text = squeezed(world.text("why", "a"))
    assert "pending forced rerun: attempt 2 failed" in text and "raise ValueError" in text


def test_path(edited):
    world, run = edited
    output = run.output_path(run.graph.roots[0].step)
    found = world.call("path", "b")
    assert found.out == f"{output}\n"
    assert found.err == f"b: 2 steps; this is {Path(output).parent.name}, the newest\n"
    directory = Path(output).parent.name
    for text in (directory, directory[:6], str(Path(output).parent), output):
        assert world.call("path", text).out == f"{output}\n" and world.call("path", text).err == ""
    assert world.json("path", "b") == {"name": "b", "output": output, "commit": 1}
    assert world.call("path", "raw/b", code=2).err.endswith("did you mean 'raw/a'?\n")


def test_path_without_a_commit(world):
    world.stop.touch()
    with pytest.raises(RunFailed):
        world.launch(world.step("a"))
    error = world.call("path", "a", code=2).err
    assert "has no committed output: it is FAILED; see marin-sft why a-" in error


@pytest.mark.parametrize("name", ["path", "why", "chat", "samples"])
def test_a_step_that_has_not_run_is_told_with_the_command_that_runs_it(world, name, monkeypatch):
    world.stop.touch()
    with pytest.raises(RunFailed):
        world.launch(world.step("hf/mine", world.step("hf/mine_base")))
    argv = world.json("runs", world.json("runs")[0]["run"])["argv"]
    runs = f"to run it: {shlex.join(['python', *argv])}\n"
    told = f"hf/mine has not run under {world.prefix}; to run it: "
    error = world.call(name, "hf/mine", code=2).err
    assert told in error and "did you mean" not in error
    assert error.endswith(runs) and ("hf download ID" in error) == (name == "chat")
    if name != "why":
        error = world.call(name, "hf/mine_base", code=2).err
        assert "it is FAILED; see marin-sft why hf/mine_base-" in error and "to run it: python" in error
    assert "no step 'hf/miner'" in world.call(name, "hf/miner", code=2).err


def test_logs(world):
    a = world.step("a", text="first")
    world.launch(a)
    world.launch(a, force_run=("a",))
    assert world.text("logs", "a") == world.text("logs", "a", "-f") == "writing first\n"
    assert world.json("logs", "a", "--attempt", "1")["log"] == "writing first\n"
    assert world.json("logs", "a")["attempt"] == 2
    assert "no attempt 7; there are: 1, 2" in world.call("logs", "a", "--attempt", "7", code=2).err
    assert "no rank 1; there are: none" in world.call("logs", "a", "--rank", "1", code=2).err
    next(world.prefix.glob("a-*/2")).joinpath(".log-0").write_text("of rank 0\n")
    next(world.prefix.glob("a-*/2")).joinpath(".log-11").write_text("of rank 11\n")
    assert world.text("logs", "a", "--rank", "11") == "of rank 11\n"
    assert "no rank 1; there are: ranks 0 to 11" in world.call("logs", "a", "--rank", "1", code=2).err


def test_logs_are_read_in_pieces(world):
    """Which cut characters in two."""
    world.launch(world.step("a"))
    (log,) = world.prefix.glob("a-*/1/.log")
    text = "a" + "\u00e9\u4e2d\n" * 500_000
    log.write_text(text)
    pieces = [len(piece) for piece in logs.read_log(open_store(str(world.prefix)), str(log))]
    assert sum(pieces) == len(text.encode()) and max(pieces) <= 1 << 20 and len(pieces) > 2
    assert world.json("logs", "a")["log"] == text == world.text("logs", "a")


@pytest.mark.parametrize("end", ["failure", "taken over", "released"])
def test_logs_are_followed_to_their_end(world, monkeypatch, end):
    store, directory = open_store(str(world.prefix)), "a-0123456789"
    claim = take_claim(store, directory, 1, 1, "f")
    log = Path(store.path(f"{directory}/1/.log"))
    log.parent.mkdir()
    log.write_text("one\n")

    def end_it():
        if end == "failure":
            store.replace(f"{log.parent}/.failure.json", b'{"error": "x", "location": null, "traceback": ""}')
        elif end == "taken over":
            take_claim(store, directory, 2, 1, "f")
        else:
            write_beat(store, directory, claim, -1, None, released=True)

    turns = [lambda: log.open("a").write("two\n"), lambda: None, lambda: (log.open("a").write("three\n"), end_it())]
    monkeypatch.setattr(logs, "time", SimpleNamespace(sleep=lambda seconds: turns.pop(0)()))
    assert world.text("logs", "-f", directory, "--attempt", "1") == "one\ntwo\nthree\n" and not turns


def test_diff(edited):
    world, _ = edited
    old, new = (item["path"].removeprefix(f"{world.prefix}/") for item in world.json("status", "raw/a"))
    assert world.json("diff", old, new) in ([["rate", 0.001, 0.5]], [["rate", 0.5, 0.001]])
    assert world.json("diff", old, old) == [] and "no difference" in world.text("diff", old, old)
    assert "rate" in world.text("diff", old, new)
    ends = [item["path"].removeprefix(f"{world.prefix}/") for item in world.json("status", "b")]
    ((field, *values),) = world.json("diff", *ends)
    assert field == "inputs[0]" and sorted(values) == sorted([old, new])


def test_runs(edited):
    world, _ = edited
    world.stop.touch()
    with pytest.raises(RunFailed):
        world.launch(world.step("bad"), world.step("raw/a"))
    found = world.json("runs")
    assert [run["status"] for run in found] == ["failed", "done", "done"]
    assert found[0]["results"] == {"failed": 1, "cached": 1} and len(world.json("runs", "--limit", "2")) == 2
    assert squeezed(world.text("runs")).count("2 ran") == 2
    facts = world.json("runs", found[0]["run"][-6:])
    assert facts["run"] == found[0]["run"] and facts["steps"][0]["error"] == "ValueError: told to fail"
    assert "told to fail" in world.text("runs", found[0]["run"])
    assert "no run 'zzz'" in world.call("runs", "zzz", code=2).err


def test_all_lines_of_an_error_are_told_at_most_ten(world):
    world.stop.write_text("bad rows:\n  got       7\n  expected  8\nMend them")
    with pytest.raises(RunFailed):
        world.launch(world.step("bad"))
    error = "ValueError: bad rows:\n  got       7\n  expected  8\nMend them\n"
    assert f"\nbad failed: {error}  log  " in world.text("runs", world.json("runs")[0]["run"])
    in_one = "attempt 1 failed: ValueError: bad rows: got 7; expected 8; Mend them"
    assert in_one in world.text("status") and in_one in world.text("watch")
    assert "attempt 1: ValueError: bad rows:;   got       7;   expected  8; Mend them" in world.text("why", "bad")
    world.stop.write_text("\n".join(f"line {n}" for n in range(1, 13)))
    with pytest.raises(RunFailed):
        world.launch(world.step("bad"))
    text = world.text("runs", world.json("runs")[0]["run"])
    assert "line 10\nand 2 more lines\n" in text and "line 11" not in text


def test_the_name_of_a_script_wins_over_parts_of_names(world, capsys):
    store = open_store(str(world.prefix))
    names = [f"2026-01-02T03040{n}.678Z-{script}-abcdef" for n, script in enumerate(("tiny", "tiny", "tiny_sweep"))]
    for name in names:
        store.create_exclusive(store.path(f"_runs/{name}.begin.json"), b"{}")
    assert find_launch(store, "tiny").name == names[1]
    assert capsys.readouterr().err == f"tiny: 2 launches; this is {names[1]}, the newest\n"
    assert find_launch(store, "iny").name == names[2] and "3 launches" in capsys.readouterr().err
    assert find_launch(store, "tiny_sweep").name == find_launch(store, names[2]).name == names[2]
    assert capsys.readouterr().err == ""


def test_a_launch_that_has_not_ended(world):
    store = open_store(str(world.prefix))
    for i, owner in enumerate(
        (
            ProcessIdentity.current(),
            dataclasses.replace(ProcessIdentity.current(), start_time="1"),
            ProcessIdentity("far", 1, "boot", "namespace", "1"),
        )
    ):
        begin = {"description": None, "owner": dataclasses.asdict(owner), "launch": {}, "paths": [], "steps": []}
        name = f"_runs/{now().replace(':', '')}-x-{i}"
        store.create_exclusive(store.path(f"{name}.begin.json"), json.dumps(begin).encode())
    assert sorted(run["status"] for run in world.json("runs")) == ["killed", "not ended on far", "running"]
    world.text("runs")
    world.text("runs", "x-0")


def test_pin_and_gc(edited):
    world, run = edited
    keep = ("--keep_runs", "1", "--keep_days", "0", "--grace_hours", "0")
    new = {run.plan.store.path(node.directory) for node in run.graph}
    old = [Path(item["path"]) for item in world.json("status") if item["path"] not in new]
    assert len(old) == 2
    assert {item["path"] for item in world.json("gc", *keep)} == set(map(str, old))
    assert "2 steps and 0 superseded attempts" in squeezed(world.text("gc", *keep))
    assert world.json("gc") == []
    assert "pinned" in world.text("pin", str(old[0]), "--note", "for the paper")
    assert "pinned" in world.text("status")
    (reason,) = world.json("gc", *keep, "--why", str(old[0]))["kept_by"]
    assert reason.endswith(": for the paper")
    assert "kept by nothing" in world.text("gc", *keep, "--why", str(old[1]))
    assert "one of the newest 1" in squeezed(world.text("gc", *keep, "--why", "b"))
    assert old[0].exists() and old[1].exists()
    (done,) = world.json("gc", *keep, "--delete")
    assert done["result"] == "removed" and done["bytes"] > 0 and old[0].exists() and not old[1].exists()
    assert world.json("unpin", str(old[0]))["was_pinned"] and not world.json("unpin", str(old[0]))["was_pinned"]
    assert "1 removed" in world.text("gc", *keep, "--delete")
    assert not old[0].exists() and len(world.json("status")) == 2
    assert "expected a whole number >= 0, got '-1'" in world.call("gc", "--keep_runs=-1", code=2).err


def test_what_is_not_ours_is_not_listed_and_what_is_left_is_named(world):
    world.launch(world.step("a"))
    (world.prefix / "github" / "commits").mkdir(parents=True)
    (world.prefix / "b-0123456789" / "claims").mkdir(parents=True)
    Executor(ExecutorFlags(prefix=f"{world.prefix}/team", backend="inline")).run([world.step("inner")])
    (a,) = world.json("status")
    assert a["name"] == "a"
    note = f"Not searched: team, a store of its own; see --prefix {world.prefix}/team".replace(" ", "")
    assert all(note in "".join(world.text(name).split()) for name in ("status", "gc"))  # folded anywhere
    assert "no step 'team/inner': team is a store of its own" in world.call("why", "team/inner", code=2).err
    damaged = Path(a["path"], "claims", "000001.json")
    damaged.write_text("")
    left = f"left {Path(a['path']).name} ({damaged} cannot be read)".replace(" ", "")
    for flags in ([], ["--delete"]):
        assert left in "".join(world.text("gc", *flags, "--keep_runs", "0", "--keep_days", "0").split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "x = 1\ny = (x +\n",
            "cannot be read\n"
            """  File "{script}", line 2\n    y = (x +\n        ^\nSyntaxError: '(' was never closed\n""",
        ),
        (
            "from broken import x\n",
            """cannot be read\n  File "{broken}", line 1\n    x = = 1\n        ^\nSyntaxError: """,
        ),
        (
            "def f():\n    return nosuch\nf()\n",
            """failed\nTraceback (most recent call last):\n  File "{script}", line 3, in <module>\n    f()\n"""
            """  File "{script}", line 2, in f\n    return nosuch\n           ^^^^^^\nNameError: name 'nosuch' is""",
        ),
    ],
)
@pytest.mark.parametrize("name", ["plan", "preview"])
def test_a_mistake_in_the_file_is_shown_without_our_frames(name, text, said, tmp_path, monkeypatch, capsys):
    script, broken = tmp_path / "mine.py", tmp_path / "broken.py"
    script.write_text(text)
    broken.write_text("x = = 1\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    assert command.main([name, str(script)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {script} {said.format(script=script, broken=broken)}")


_SCRIPT = """
from beside import NAME
from marin_sft import ExecutorStep, executor_main, this_output_path

def body(config):
    print(config)

executor_main(steps=[ExecutorStep(NAME, body, {"out": this_output_path(), "x": 1})])
"""


def test_plan(world, tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(_SCRIPT)
    (tmp_path / "beside.py").write_text(f"NAME = '{'a_long_name/' * 9}end'\n")
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    text = world.text("plan", str(tmp_path / "script.py"), "--run_only", "end")
    assert "RUN" in text and "NEW" in text and not world.prefix.exists()
    output = world.call("plan", "--json", str(tmp_path / "script.py")).out
    assert json.loads(output)[0]["action"] == "RUN" and not world.prefix.exists()
    assert "does not exist" in world.call("plan", "nowhere.py", code=2).err
    with pytest.raises(SystemExit, match="2"):
        world.call("plan", str(tmp_path / "script.py"), "--run_onyl", "x")


def test_mistakes(capsys):
    assert command.main(["statu"]) == 2
    assert capsys.readouterr().err == "error: no command 'statu'; did you mean 'status'?\n"
    for word in ("brew", "train"):
        assert command.main([word]) == 2
        assert f"error: no command {word!r}; there are: sft, dpo, plan, status" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="0"):
        command.main(["--version"])
    assert re.fullmatch(r"marin-sft \d+\.\S+\n", capsys.readouterr().out)
    assert command.main([]) == 2 and command.main(["status", "--jsn"]) == 2
    assert "marin-sft status: unknown --jsn; did you mean '--json'?" in capsys.readouterr().err
    assert command.main(["cluster", "up", "--numcpus=2"]) == 2
    assert "marin-sft cluster up: unknown --numcpus=2; did you mean '--num_cpus'?" in capsys.readouterr().err
    assert command.main(["jobs", "mine"]) == 2
    assert "marin-sft jobs: unknown mine; see marin-sft jobs --help" in capsys.readouterr().err
    assert command.main(["status", "--prefix", "ftp://x/y"]) == 2


@pytest.fixture
def long_names(world):
    """Commands about steps with a long name, and that name."""
    name = "a_rather_long_segment_of_a_name/" * 4 + "end"
    world.launch(world.step(name, text="y" * 300))
    world.launch(world.step(name, text="z" * 300))
    (one, other), run = (item["path"] for item in world.json("status")), world.json("runs")[0]["run"]
    texts = ("status", f"why {name}", f"diff {one} {other}", "runs", f"runs {run}", "gc", f"pin {one}")
    return name, [text.split() for text in (*texts, f"gc --why {one}")]


def test_what_is_piped_is_neither_folded_nor_cut(world, long_names, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    name, commands = long_names
    for arguments in commands:
        lines = world.text(*arguments).splitlines()
        assert all(name in line for line in lines if "a_rather_long" in line), arguments
    assert [name in line for line in world.text("status").splitlines()] == [False, True, True, False]
    world.stop.touch()
    with pytest.raises(RunFailed):
        world.launch(world.step(name + "/bad"))
    lines = world.text("runs", world.json("runs")[0]["run"]).splitlines()
    assert f"{name}/bad failed: ValueError: told to fail" in lines


def test_on_a_terminal_what_is_long_is_folded(world, long_names):
    program = (
        "import sys; from marin_sft.run.command import main;"
        f"[main([name, '--prefix', {str(world.prefix)!r}, *rest]) for name, *rest in {long_names[1]!r}]"
    )
    code, output = on_a_terminal(sys.executable, "-c", program, COLUMNS="80", TERM="dumb")
    lines = output.splitlines()
    remark = ", the newest"  # on stderr
    assert code == 0 and len(lines) > 40
    assert [line for line in lines if len(line) > 80 and not line.endswith(remark)] == []


def test_it_starts_light_and_fast(tmp_path):
    """200 steps, from a cold start of Python."""
    store = open_store(str(tmp_path))
    owner = ProcessIdentity("elsewhere", 1, "boot", "namespace", "1")
    for i in range(200):
        claim = json.dumps(dataclasses.asdict(Claim(1, 1, "f", owner, now()))).encode()
        store.replace(store.path(f"steps/s{i}-0123456789/claims/000001.json"), claim)
    program = (
        "import sys; from marin_sft.run.command import main; main(sys.argv[1:]);"
        "heavy = {'jax', 'ray', 'transformers', 'levanter', 'datasets', 'numpy', 'fsspec'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    begun = time.perf_counter()
    arguments = [sys.executable, "-c", program, "status", "--prefix", str(tmp_path)]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "200 steps under" in done.stdout and time.perf_counter() - begun < 3
    module = [sys.executable, "-m", "marin_sft.run.command", "status", "--prefix", str(tmp_path), "--json"]
    assert len(json.loads(subprocess.run(module, capture_output=True, text=True, cwd=ROOT).stdout)) == 200


@pytest.mark.parametrize("name", command.COMMANDS)
def test_help_says_how_launches_steps_and_jobs_are_named_and_listed(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main([name, "--help"])
    usage, _, about = capsys.readouterr().out.partition("\n\n")
    about = squeezed(about)
    taken = set(re.findall(r"[A-Z]+", usage.replace("FILE.gguf", "")))
    for metavar, lists in (("RUN", "runs"), ("JOB", "jobs"), ("STEP", "status")):
        assert metavar not in taken or name == lists or name == "preview" or f"`marin-sft {lists}`" in about, metavar
    assert "RUN" not in taken or "such as quickstart-3f9a2c" in about


def test_the_docs_list_every_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    table = (ROOT / "docs/guides/history.md").read_text().split("| `marin-sft` |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([a-z-]+) ", table)) - {"ls"} == {*command.COMMANDS, "cluster"}
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    shown = capsys.readouterr().out
    listed = re.findall(r"^    ([a-z-]+)(?: +|$)", shown, re.MULTILINE)  # a long name has a line of its own
    assert {*command.COMMANDS, "cluster"} <= {*listed}
    assert max(map(len, shown.splitlines())) <= 80
