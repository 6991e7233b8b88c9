"""A plan as a file: to be reviewed, and then carried out exactly, or refused with what has changed since.

Recognizable secrets are removed. The same plan gives the same bytes, so that two files can be compared.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from marin_sft.disk import write_whole
from marin_sft.errors import UserError
from marin_sft.execution.attempt_record import sound_record
from marin_sft.execution.catalog import in_parallel
from marin_sft.execution.configs import settings_of
from marin_sft.execution.documents import JsonObject, as_document, canonical_json
from marin_sft.execution.flags import absolute_path
from marin_sft.execution.plan import Plan, PlanItem
from marin_sft.execution.ray_environment import LAUNCH_DIR
from marin_sft.execution.record import RUNS, describe, launch_provenance
from marin_sft.execution.repeating import own_files
from marin_sft.execution.source import source_digest
from marin_sft.execution.step_state import read_state
from marin_sft.execution.store import Store
from marin_sft.paths import file_system, nearest_path
from marin_sft.redaction import redacted_words, shown_value

if TYPE_CHECKING:
    from marin_sft.execution.estimates import Estimates

FORMAT = 1
_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class PlannedStep:
    """A step as it was planned.

    commit, attempt, digest: of its output at the time, that of exactly this identity. None: there was none.
    estimate: see `estimates.Estimate`. None: it does not run, or nothing was known.
    """

    name: str
    path: str
    fingerprint: str
    kind: str
    version: int
    action: str
    reason: str
    detail: str
    diff: tuple[tuple[object, ...], ...]
    commit: int | None
    attempt: int | None
    digest: str | None
    source: str | None
    config: object
    settings: dict[str, object]
    resources: JsonObject
    estimate: JsonObject | None = None


@dataclass(frozen=True)
class PlanFile:
    """A plan with what it was made from.

    flags: those that choose what runs. code: digests of the source, by the name of the package or the path of the file.
    command, git_commit, summary: for people; they are not compared.
    """

    format: int
    prefix: str
    command: str
    flags: dict[str, object]
    git_commit: str | None
    code: dict[str, object]
    summary: tuple[str, ...]
    steps: tuple[PlannedStep, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()

    def write(self, path: str) -> None:
        """Atomically. Raises UserError if it cannot be written."""
        text = json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"
        place = absolute_path(path, f"--plan_out {path}")
        try:
            write_whole(place, text)
        except OSError as error:
            raise UserError(f"--plan_out {path}: cannot be written: {error}") from None


def plan_file(plan: Plan, flags: Mapping[str, object], estimates: Estimates | None, command: str = "") -> PlanFile:
    commit = launch_provenance()["git_commit"]
    of = {node: found.to_json() for node, found in estimates.of.items()} if estimates else {}
    made = PlanFile(
        format=FORMAT,
        prefix=plan.store.prefix,
        command=shlex.join(redacted_words(shlex.split(command))),
        flags=dict(flags),
        git_commit=str(commit) if commit else None,
        code=code_digests(),
        summary=tuple(estimates.lines()) if estimates else (),
        steps=tuple(_planned(item, plan.store, of.get(item.node)) for item in plan),
    )
    return as_document(PlanFile, json.loads(json.dumps(asdict(made))))  # tuples become lists, as in the file


def read_plan(path: str) -> PlanFile:
    """Raises:
    UserError: there is no such file, it is not a plan, or a newer version wrote it.
    """
    try:
        value = json.loads(_text(path))
    except OSError as error:
        near = nearest_path(os.path.abspath(os.path.expanduser(path)))
        raise UserError(f"{path}: expected a plan, as --plan_out writes it: {error.strerror or error}{near}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected a plan, as --plan_out writes it: not JSON: {error}") from None
    if isinstance(value, dict) and isinstance(value.get("format"), int) and value["format"] > FORMAT:
        raise UserError(
            f"{path}: a plan of format {value['format']}, and this version reads {FORMAT}; update marin_sft"
        )
    try:
        return as_document(PlanFile, value)
    except ValueError as error:
        raise UserError(f"{path}: expected a plan, as --plan_out writes it, and this file has {error}") from None


def _text(path: str) -> str:
    """A relative path starts where the user launched, or where the files of a job from another machine are."""
    local = os.environ.get(LAUNCH_DIR) == "" and "://" not in path
    filesystem, plain = file_system(path if local else absolute_path(path, path))
    text: bytes = filesystem.cat_file(plain)
    return text.decode()


def _planned(item: PlanItem, store: Store, estimate: JsonObject | None) -> PlannedStep:
    step, payload, commit = item.node.step, item.node.payload, item.commit
    return PlannedStep(
        name=item.node.name,
        path=store.path(item.node.directory),
        fingerprint=item.node.fingerprint,
        kind=str(payload["kind"]),
        version=int(str(payload["version"])),
        action=str(item.action),
        reason=str(item.reason),
        detail=str(shown_value("", item.detail)),
        diff=tuple((name, *(_without_secrets(value, name) for value in values)) for name, *values in item.diff),
        commit=commit.number if commit else None,
        attempt=commit.attempt if commit else None,
        digest=commit.digest if commit else None,
        source=source_digest(step.fn),
        config=_without_secrets(payload["config"]),
        settings=settings_of(step.config),
        resources=_resources(step.resources),
        estimate=estimate,
    )


def _resources(resources: object) -> JsonObject:
    found = _without_secrets(describe(resources))
    assert isinstance(found, dict)
    return found


def _without_secrets(value: object, name: str = "") -> object:
    if isinstance(value, Mapping):
        return {key: _without_secrets(child, str(key)) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(child, name) for child in value]
    return shown_value(name, value if isinstance(value, bool | int | float | str | None) else repr(value))


@functools.cache
def code_digests() -> dict[str, object]:
    """Digests of the source of marin_sft as a whole, and of the script and each module next to it that it imported."""
    root, package = os.path.dirname(os.path.abspath(sys.argv[0])), os.path.dirname(os.path.dirname(__file__))
    ours: dict[str, object] = {_PACKAGE: _digest(sorted(Path(package).rglob("*.py")))}
    return ours | {os.path.relpath(file, root): _digest([Path(file)]) for file in own_files()}


def _digest(files: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()[:16]


@dataclass(frozen=True)
class CarriedOut:
    """What launches of a plan have done of it before: the paths of steps that they made, and that they still run or
    seem to run."""

    made: frozenset[str]
    begun: frozenset[str]


def carried_out(planned: PlanFile, store: Store) -> CarriedOut:
    may_run = [step for step in planned.steps if step.action in ("RUN", "IF_CHANGED")]

    def look(step: PlannedStep) -> tuple[bool, bool]:
        state = read_state(store, step.path)
        commit, claim = state.commit, state.claim
        newer = commit if commit and commit.number != step.commit else None
        made = newer is not None and launch_of(store, step.path, newer.attempt).get("plan") == planned.digest
        run = claim.run if claim else None
        begun = run is not None and _launch(store, run).get("plan") == planned.digest
        return made, begun

    found = list(zip((step.path for step in may_run), in_parallel(store, look, may_run), strict=True))
    return CarriedOut(frozenset(p for p, (made, _) in found if made), frozenset(p for p, (_, begun) in found if begun))


def _launch(store: Store, run: str) -> JsonObject:
    try:
        launch = json.loads(store.read(store.path(f"{RUNS}/{run}.begin.json")) or b"{}")["launch"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return launch if isinstance(launch, dict) else {}


def launch_of(store: Store, path: str, attempt: int) -> JsonObject:
    """What the record of an attempt says of its launch; empty if it cannot be read."""
    record = sound_record(store, path, attempt)
    return record.launch if record else {}
