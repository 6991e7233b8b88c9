"""Stores whose JSON files are damaged one at a time, and everything that reads them: nothing may end in a traceback."""

import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from marin_sft.errors import MarinSftError, RunFailed
from marin_sft.execution.claims import read_claim, write_beat
from marin_sft.execution.clock import now
from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path
from marin_sft.execution.local_store import LocalStore
from marin_sft.execution.pins import pin_step
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.step import earlier_attempts
from marin_sft.execution.step_state import Failure, Tombstone, write_failure, write_tombstone
from marin_sft.run import command

GONE = dataclasses.replace(ProcessIdentity.current(), start_time="1")


@step_fn(kind="joined")
def joined(config):
    text = "".join(Path(path, "text.txt").read_text() for path in config["inputs"]) + config["name"]
    Path(config["out"], "text.txt").write_text(text)
    Path(config["out"], "metrics.json").write_text(json.dumps({"letters": len(text)}))


def step(name: str, *inputs: ExecutorStep, **extra: object) -> ExecutorStep:
    config = {"name": name, "inputs": list(inputs), "out": this_output_path(), "earlier": earlier_attempts(), **extra}
    return ExecutorStep(name, joined, config)


def pipeline() -> list[ExecutorStep]:
    a = step("a")
    return [step("c", step("b", a)), step("failed"), step("interrupted"), step("half_removed")]


def launch(store: Path, *flags: str) -> str:
    """The pipeline, as a script runs it; returns what it printed. Raises what a script would show as a traceback."""
    words = io.StringIO()
    with contextlib.redirect_stdout(words), contextlib.suppress(RunFailed, MarinSftError):
        Executor(ExecutorFlags(prefix=str(store), backend="inline")).run(pipeline())
    return words.getvalue()


def whole_store(path: Path) -> Path:
    """One of each kind of file: steps committed, failed, interrupted and half removed by a gc; launches; a pin."""
    launch(path)
    store = LocalStore(str(path))
    with contextlib.redirect_stdout(io.StringIO()):
        Executor(ExecutorFlags(prefix=str(path), backend="inline")).run([step("a", sibling=1)])
    for file in path.glob("*/claims/000001.json"):  # by a process that has ended since
        file.write_text(json.dumps({**json.loads(file.read_text()), "owner": dataclasses.asdict(GONE)}))
    for name in ("failed", "interrupted", "half_removed"):
        (directory,) = path.glob(f"{name}-*")
        shutil.rmtree(directory / "commits")
        claim = read_claim(store, directory.name, 1)
        assert claim is not None
        write_beat(store, directory.name, claim, 3, {"done": 1.0, "total": 4.0, "unit": "steps", "metrics": {"x": 1}})
        if name == "failed":
            write_failure(store, directory.name, 1, Failure("ValueError: told to", "script.py:1 in f", "Traceback"))
        if name == "half_removed":
            assert write_tombstone(store, directory.name, Tombstone((), (1,), 1, GONE, now()))
    (pinned,) = path.glob("c-*")
    pin_step(store, pinned.name, "the best")
    return path


def our_files(store: Path) -> list[Path]:
    """Every JSON file of the engine, and `latest`."""
    kinds = ("*.json", "*.beat", "latest")
    found = {file for kind in kinds for file in store.rglob(kind) if file.name != "metrics.json"}
    return sorted(file for file in found if "latest" not in file.relative_to(store).parts[:-1])


def _other_value(value: object, dice: random.Random) -> object:
    others: list[object] = [None, True, -1, 0, 2**70, 1e308, "x", "", [], [[]], {}, {"x": 1}]
    return dice.choice([other for other in others if type(other) is not type(value) or other != value])


def _with_one_value_changed(value: object, dice: random.Random) -> object:
    """A value somewhere inside becomes another one."""
    if isinstance(value, dict) and value and dice.random() < 0.8:
        key = dice.choice(sorted(value))
        return {**value, key: _with_one_value_changed(value[key], dice)}
    if isinstance(value, list) and value and dice.random() < 0.8:
        at = dice.randrange(len(value))
        return [*value[:at], _with_one_value_changed(value[at], dice), *value[at + 1 :]]
    return _other_value(value, dice)


def _without_a_field(data: bytes, dice: random.Random) -> bytes:
    value = json.loads(data)
    if isinstance(value, dict) and value:
        del value[dice.choice(sorted(value))]
    return json.dumps(value).encode()


def _with_a_field_more(data: bytes, dice: random.Random) -> bytes:
    value = json.loads(data)
    return json.dumps({**value, "of_a_newer_version": [1]} if isinstance(value, dict) else [*value, [1]]).encode()


def _flipped(data: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << dice.randrange(8)]) + data[at + 1 :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "empty": lambda data, dice: b"",
    "cut": lambda data, dice: data[: dice.randrange(1, len(data))],
    "zeros": lambda data, dice: bytes(len(data)),
    "list": lambda data, dice: b"[]",
    "text": lambda data, dice: b'"x"',
    "object": lambda data, dice: b"{}",
    "null": lambda data, dice: b"null",
    "no_utf8": lambda data, dice: b'{"\xff": 1}',
    "deep": lambda data, dice: b"[" * 100_000,
    "flipped": _flipped,
    "missing": _without_a_field,
    "changed": lambda data, dice: json.dumps(_with_one_value_changed(json.loads(data), dice)).encode(),
    "newer": _with_a_field_more,
}


def damage(file: Path, kind: str, dice: random.Random) -> None:
    """`kind`: one of DAMAGES, or "directory"."""
    data = file.read_bytes() if file.name != "latest" else b"{}"
    file.unlink()
    if kind == "directory":
        (file / "inside").mkdir(parents=True)
    else:
        file.write_bytes(DAMAGES[kind](data, dice))


COMMANDS = (
    ["status"], ["runs"], ["runs", "1"], ["gc"], ["gc", "--why", "a"], ["why", "a"], ["why", "b"], ["why", "failed"],
    ["why", "interrupted"], ["path", "c"], ["logs", "failed"], ["diff", "a", "b"], ["diff", "failed", "c"],
    ["pin", "b"], ["unpin", "b"], ["gc", "--delete", "--keep_runs", "1", "--keep_days", "0", "--grace_hours", "0"],
)  # fmt: skip


def run_command(store: Path, words: list[str]) -> tuple[int, str]:
    """Exit code and what is on stderr. Raises what would be a traceback."""
    errors = io.StringIO()
    os.environ["COLUMNS"] = "200"
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())), contextlib.redirect_stderr(errors):
        code = command.main([*words, "--prefix", str(store)])
    return code, errors.getvalue()
