"""A step on a page: its state, attempts, config, inputs, files, the end of its log, and where it came from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from marin_sft.execution.attempt_record import AttemptRecord
from marin_sft.execution.attempts import Attempt, newest_record, read_attempts
from marin_sft.execution.claims import attempt_path
from marin_sft.execution.commits import committed_files
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.identity import Payload
from marin_sft.execution.step_state import StepState, read_state
from marin_sft.execution.store import Store
from marin_sft.redaction import redacted
from marin_sft.run.report.subject import Planned
from marin_sft.run.status import state_name

_SHOWN_FILES = 200
_SHOWN_ATTEMPTS = 20
_PROVENANCE = ("user", "host", "python", "git_commit", "git_dirty", "argv", "run")


@dataclass(frozen=True)
class Step:
    """What the sections of a page need of a step.

    output: the directory of the committed attempt, else of the newest one; None if there is none.
    record: of the committed attempt, else of the newest that ended.
    files: sizes of the output's files by name.
    """

    planned: Planned
    state: StepState
    attempts: tuple[Attempt, ...]
    output: str | None
    record: AttemptRecord | None
    files: Mapping[str, int]

    @property
    def name(self) -> str:
        return self.planned.name

    @property
    def directory(self) -> str:
        return self.planned.directory

    @property
    def payload(self) -> Payload | None:
        """None if no attempt has ended."""
        return self.state.commit.payload if self.state.commit else self.record.payload if self.record else None

    @property
    def kind(self) -> str | None:
        return str(self.payload["kind"]) if self.payload else None

    @property
    def config(self) -> Mapping[str, object]:
        """With inputs as paths, from the record, else as it counts for identity."""
        if self.record is not None and isinstance(self.record.config, dict):
            return self.record.config
        config = self.payload.get("config") if self.payload else None
        return config if isinstance(config, dict) else {}

    @property
    def inputs(self) -> tuple[str, ...]:
        """The directories of the steps that it uses."""
        if self.planned.inputs is not None:
            return self.planned.inputs
        if self.state.commit is not None:
            return tuple(used.directory for used in self.state.commit.inputs)
        return self.record.uses if self.record else ()


def read_step(store: Store, planned: Planned) -> Step:
    state = read_state(store, planned.directory)
    attempts = tuple(read_attempts(store, planned.directory, state, _SHOWN_ATTEMPTS)) if state.begun else ()
    number = state.commit.attempt if state.commit else state.last_claim or None
    output = attempt_path(store, planned.directory, number) if number else None
    record = _record(store, planned.directory, state, attempts) if state.begun else None
    return Step(planned, state, attempts, output, record, _files(store, state, output))


def _record(store: Store, directory: str, state: StepState, attempts: Sequence[Attempt]) -> AttemptRecord | None:
    """See `newest_record`; most have been read with the attempts."""
    wanted = state.commit.attempt if state.commit else None
    read = (attempt.record for attempt in reversed(attempts) if wanted in (None, attempt.number))
    return next(filter(None, read), None) or newest_record(store, directory, state)


def _files(store: Store, state: StepState, output: str | None) -> dict[str, int]:
    if output is None:
        return {}
    committed = committed_files(store, output) if state.commit else []
    return {file.path: file.size for file in committed} or store.sizes(output)


def input_path(store: Store, step: Step, field: str) -> str | None:
    """The path in a field of the config. A path into an input's output is where it is now: a store may be copied."""
    path = step.config.get(field)
    if not isinstance(path, str):
        return None
    for used in step.inputs:
        _, found, below = f"{path}/".partition(f"/{used}/")
        if found:
            return f"{store.path(used)}/{below}".rstrip("/")
    return path


def step_json(store: Store, step: Step, word: str, log_bytes: int) -> JsonObject:
    """Everything about the step that a page shows."""
    state, record, decided = step.state, step.record, step.planned.decided
    launch = record.launch if record else {}
    return {
        "name": step.name,
        "directory": step.directory,
        "path": store.path(step.directory),
        "kind": step.kind,
        "outcome": word,
        "state": state_name(state),
        "reason": decided.get("reason"),
        "action": decided.get("action"),
        "detail": decided.get("detail"),
        "diff": decided.get("diff") or [],
        "error": decided.get("error") and redacted(decided["error"]),
        "seconds": _seconds(step),
        "attempts": [_attempt_json(attempt) for attempt in step.attempts],
        "reused_from": _made_by(step) if word == "reused" else None,
        "inputs": list(step.inputs),
        "config": dict(step.config),
        "settings": state.commit.settings if state.commit else {},
        "resources": record.resources if record else None,
        "function": record.function if record else None,
        "output": step.output,
        "commit": state.commit and {"number": state.commit.number, "time": state.commit.time},
        "size": sum(step.files.values()),
        "file_count": len(step.files),
        "files": list(step.files.items())[:_SHOWN_FILES],
        "failure": _failure(step),
        "progress": _progress(step),
        "log": log_end(store, step, log_bytes),
        "provenance": {key: launch[key] for key in _PROVENANCE if launch.get(key) is not None},
        "environment": record.environment if record else {},
    }


def _attempt_json(attempt: Attempt) -> JsonObject:
    return {
        "number": attempt.number,
        "state": attempt.how,
        "host": attempt.claim.owner.host,
        "pid": attempt.claim.owner.pid,
        "claimed": attempt.claimed,
        "started": attempt.started,
        "ended": attempt.ended,
        "run": attempt.run,
        "error": attempt.error and redacted(attempt.error),
    }


def _seconds(step: Step) -> float | None:
    """How long the attempt took that made the output, else the newest one so far."""
    if not step.attempts:
        return None
    wanted = step.state.commit.attempt if step.state.commit else step.attempts[-1].number
    attempt = next((item for item in step.attempts if item.number == wanted), step.attempts[-1])
    return (attempt.ended or time.time()) - (attempt.started or attempt.claimed)


def _made_by(step: Step) -> JsonObject:
    commit, record = step.state.commit, step.record
    return {"run": record.run if record else None, "time": commit.time if commit else None}


def _failure(step: Step) -> JsonObject | None:
    failure = step.state.failure
    if failure is None:
        return None
    return {
        "attempt": step.state.claim.number if step.state.claim else None,
        "error": redacted(failure.error),
        "location": failure.location,
        "traceback": redacted(failure.traceback),
    }


def _progress(step: Step) -> JsonObject | None:
    state = step.state
    if not state.running:
        return None
    age = None if state.beat_time is None else max(0.0, time.time() - state.beat_time)
    news = state.progress
    if news is None:
        return {"text": "started", "done": 0, "total": None, "beat_age": age}
    return {"text": news.text(), "done": news.done, "total": news.total, "beat_age": age}


def log_end(store: Store, step: Step, limit: int) -> JsonObject | None:
    """The last `limit` bytes of the log of the newest attempt."""
    if not step.attempts:
        return None
    number = step.attempts[-1].number
    path = f"{attempt_path(store, step.directory, number)}/.log"
    size = store.size(path)
    start = max(0, size - limit)
    text = store.read_from(path, start, limit).decode(errors="replace") if size else ""
    if start:
        text = text.partition("\n")[2]
    return {"attempt": number, "path": path, "size": size, "left_out": start > 0, "text": redacted(text)}
