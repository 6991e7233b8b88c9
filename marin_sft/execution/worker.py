"""Runs one attempt of a step in the current process: claim, run the body, digest the output, publish."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from marin_sft import progress
from marin_sft.errors import StoreError, StoreUnavailable
from marin_sft.execution.attempt_log import AttemptLog
from marin_sft.execution.beat import Beat
from marin_sft.execution.body import changed_source, exits, not_committed, run_body
from marin_sft.execution.claims import Claim, attempt_path, newer_claim, take_claim
from marin_sft.execution.clock import now
from marin_sft.execution.commits import FILES, Commit, Consumed, output_digest, publish
from marin_sft.execution.configs import resolve
from marin_sft.execution.contents import LocalContent, Look, look_at
from marin_sft.execution.identity import Payload
from marin_sft.execution.ray_environment import secrets_of_this_process, variables_of_workers
from marin_sft.execution.record import asked, describe, telling_environment
from marin_sft.execution.resources import Resources, demand
from marin_sft.execution.step import EarlierAttempts, OutputName, kind_of, path_of_function
from marin_sft.execution.step_state import Failure, resumable_attempts, write_failure
from marin_sft.execution.store import FileInfo, Store
from marin_sft.execution.stores import open_store
from marin_sft.execution.work import Work, work_of


@dataclass(frozen=True)
class Task:
    """Everything that a worker needs to run one attempt. Picklable.

    config: with inputs resolved to paths; its own output path is filled in after the claim.
    claim: the claim number to create.
    aim: the commit number to publish.
    beat_timeout: seconds without a beat after which others consider an owner dead.
    settings: the config fields that are not part of the identity.
    contents: the local files that are part of it.
    sources: the outputs that it uses, by the fingerprints of their steps.
    hosts: the number of machines that the body runs on.
    """

    name: str
    fn: Callable[[Any], object]
    config: object
    prefix: str
    directory: str
    claim: int
    aim: int
    fingerprint: str
    payload: Payload
    source: str | None
    inputs: tuple[Consumed, ...]
    resources: Resources
    retries: int
    beat_timeout: float
    settings: dict[str, object]
    contents: tuple[LocalContent, ...]
    sources: dict[str, str]
    provenance: dict[str, object]
    hosts: int = 1


@dataclass(frozen=True)
class Outcome:
    """The result of an attempt. elsewhere: another launch has a later claim, or published the commit number first."""

    status: Literal["committed", "failed", "elsewhere"]
    attempt: int
    seconds: float = 0.0
    commit: Commit | None = None
    failure: Failure | None = None


def run_attempt(
    task: Task, own_process: bool, echo: bool = True, listeners: Sequence[progress.Listener] = ()
) -> Outcome:
    """Run one attempt of a step. Exceptions of the body are not raised; they give a failed `Outcome`.

    own_process: nothing else writes to this process's stdout and stderr while the body runs.
    echo: the body's output also goes there, not only to the attempt's log.
    listeners: hear the body's progress, too.
    """
    store = open_store(task.prefix)
    run, resources = task.provenance.get("run"), asked(task.resources)
    claim = take_claim(
        store, task.directory, task.claim, task.aim, task.fingerprint, str(run) if run else None, resources
    )
    if claim is None:
        return Outcome("elsewhere", task.claim)
    output = attempt_path(store, task.directory, claim.number)
    if store.names(output):
        raise StoreError(f"{output} already contains files, of an attempt whose claim is gone; move them away")
    store.make_directory(output)
    earlier = resumable_attempts(store, task.directory, claim)
    config = resolve(task.config, lambda leaf: _fill(leaf, output, earlier))
    started, clock = now(), time.monotonic()
    with (
        AttemptLog(store, output, own_process, echo) as log,
        Beat(store, task.directory, claim, task.beat_timeout, own_process, log) as beat,
        exits(store, task.directory, task.claim),
    ):
        looks = list(map(look_at, task.contents))
        changed = _changed_inputs(looks, "began") or (own_process and changed_source(config, task.payload)) or None
        failure = changed or _run(task, config, output, (beat.hear, *listeners))
        seconds = time.monotonic() - clock
        failure = _with_changed_inputs(task, failure, looks)
        files = None if failure else _files(store, output)  # while the owner still beats: a large output takes time
        if isinstance(files, Failure):
            files, failure = None, files
        work = work_of(store, output, files, task.sources, beat.first, beat.newest)
        record = json.dumps(_record(task, claim, config, started, seconds, failure, work), indent=1).encode()
        store.replace(f"{output}/.record.json", record, durable=failure is not None)
        if files is not None:
            _settle(store, output, files)
    if failure is not None:
        write_failure(store, task.directory, claim.number, failure)
        return Outcome("failed", claim.number, seconds, failure=failure)
    if newer_claim(store, task.directory, claim):
        return Outcome("elsewhere", claim.number, seconds)  # an inline body cannot be stopped, so its commit is refused
    commit = _commit(store, task, claim, files or [])
    return Outcome("committed" if commit else "elsewhere", claim.number, seconds, commit=commit)


def _run(task: Task, config: object, output: str, listeners: Sequence[progress.Listener]) -> Failure | None:
    """Run the body here, or on the hosts that the step requests."""
    if task.hosts == 1:
        return run_body(task.fn, config, *listeners)
    # Imported here because a launch imports this module, and few have such steps.
    from marin_sft.execution.gang import Gang
    from marin_sft.execution.rank import Work

    work = Work(
        fn=task.fn,
        config=config,
        payload=task.payload,
        prefix=task.prefix,
        directory=task.directory,
        claim=task.claim,
        output=output,
        secrets=secrets_of_this_process(),
    )
    variables = variables_of_workers(kind_of(task.fn), demand(task.resources))
    return Gang(work, task.name, task.resources, variables).run(*listeners)


def _fill(leaf: object, output: str, earlier: tuple[str, ...]) -> object:
    if isinstance(leaf, OutputName):
        return f"{output}/{leaf.name}" if leaf.name else output
    if isinstance(leaf, EarlierAttempts):
        return earlier
    return leaf


def _changed_inputs(looks: list[Look], when: str) -> Failure | None:
    """A failure if local files no longer have the content that is part of the step's identity."""
    changes = [look.change for look in looks if look.change is not None]
    if not changes:
        return None
    return not_committed(
        f"{'; '.join(changes)}\nThe step's identity stands for the old content, so nothing is committed. This was "
        f"noticed when the step {when}. Run the command again to run the step with the current content"
    )


def _with_changed_inputs(task: Task, failure: Failure | None, looks: list[Look]) -> Failure | None:
    """The failure of the body or of changed inputs. looks: the checks from before the body began."""
    if failure is not None and not failure.resumable:
        return failure
    changed = _changed_inputs(list(map(look_at, task.contents, looks)), "ended")
    if failure is None or changed is None:
        return failure or changed
    return replace(failure, error=f"{failure.error}; also, {changed.error}", resumable=False)


def _files(store: Store, output: str) -> list[FileInfo] | Failure:
    """The files of an output, or a failure if something in it is not a file."""
    try:
        return store.files(output)
    except StoreUnavailable:
        raise
    except StoreError as error:
        return Failure(str(error), None, "")


def _settle(store: Store, output: str, files: list[FileInfo]) -> None:
    """Record the files of an output and make it survive a power cut."""
    store.replace(f"{output}/{FILES}", json.dumps([file._asdict() for file in files]).encode(), durable=False)
    store.make_directory(f"{os.path.dirname(output)}/commits")  # so that its name is synced, too
    store.sync(output)


def _commit(store: Store, task: Task, claim: Claim, files: list[FileInfo]) -> Commit | None:
    kind = kind_of(task.fn)
    results = [file for file in files if not kind.keeps_log(file.path)]
    commit = Commit(
        number=task.aim,
        attempt=claim.number,
        fingerprint=task.fingerprint,
        payload=task.payload,
        digest=output_digest(files),
        inputs=task.inputs,
        source=task.source,
        time=now(),
        settings=task.settings,
        result=output_digest(results) if kind.log else None,
    )
    return publish(store, task.directory, commit)


def _record(
    task: Task,
    claim: Claim,
    config: object,
    started: str,
    seconds: float,
    failure: Failure | None,
    work: Work,
) -> dict[str, object]:
    return {
        "name": task.name,
        "function": path_of_function(task.fn),
        "source": task.source,
        "fingerprint": task.fingerprint,
        "payload": task.payload,
        "config": describe(config),
        "inputs": [asdict(used) for used in task.inputs],
        "contents": {content.field: dict(content.files) for content in task.contents if content.files},
        "resources": describe(task.resources),
        "claim": asdict(claim),
        "retries": task.retries,
        "start": started,
        "end": now(),
        "seconds": round(seconds, 3),
        "work": asdict(work),
        "exit": failure.error if failure else "ok",
        "environment": telling_environment(),
        "launch": task.provenance,
    }
