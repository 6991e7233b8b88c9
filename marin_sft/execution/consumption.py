"""What a step used of its inputs, and whether that has changed since.

An input is used as a whole, or only parts of it, see `marin_sft.parts`. Parts can be used before the input commits.
What was made from them is confirmed when it does, and made again if its commit has other files there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from marin_sft.execution.claims import attempt_path, read_claim
from marin_sft.execution.commits import Commit, Consumed, committed_files
from marin_sft.execution.documents import canonical_json, read_document
from marin_sft.execution.graph import Node
from marin_sft.execution.step_state import StepState
from marin_sft.execution.store import Store
from marin_sft.parts import File, record_path


@dataclass(frozen=True)
class _Record:
    files: tuple[File, ...]


class Consumption:
    """Reads what is consumed, each record of a part once: an attempt never changes what it has declared whole."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files: dict[tuple[str, str], tuple[File, ...]] = {}

    def of(self, node: Node, used: Node, commit: Commit) -> Consumed:
        """An input's commit as `node` uses it: without the input's log, unless `node` names a file of it."""
        parts = node.parts.get(used, ())
        if parts:
            digest = self.digest_of_parts(used.directory, commit.attempt, parts)
            return Consumed(used.directory, commit.number, digest, parts)
        whole = commit.result is None or used.directory in node.reads_logs_of
        return Consumed(used.directory, commit.number, commit.digest if whole else commit.result)

    def early(self, node: Node, used: Node, attempt: int) -> Consumed | None:
        """The parts that `node` uses of a running attempt of `used`; None: they are not whole yet."""
        parts, output = node.parts[used], attempt_path(self._store, used.directory, attempt)
        if not all(self._record(output, part) for part in parts):
            return None
        claim = read_claim(self._store, used.directory, attempt)
        if claim is None or claim.fingerprint != used.fingerprint:
            return None  # of another step with this directory
        return Consumed(used.directory, claim.aim, self.digest_of_parts(used.directory, attempt, parts), parts)

    def digest_of_parts(self, directory: str, attempt: int, parts: tuple[str, ...]) -> str | None:
        """Of the files that these parts had when they became whole; None if a part is not there."""
        output = attempt_path(self._store, directory, attempt)
        files = {part: self._record(output, part) or self._committed(output, part) for part in parts}
        if not all(files.values()):
            return None
        listed = {part: [[f.path, f.size, f.sha256] for f in found] for part, found in files.items()}
        return hashlib.sha256(canonical_json(listed).encode()).hexdigest()

    def _record(self, output: str, part: str) -> tuple[File, ...]:
        known = self._files.get((output, part), ())
        if not known:
            advice = "rerun the step that wrote it with --force_run"
            record = read_document(self._store, record_path(output, part), _Record, advice)
            known = self._files[output, part] = record.files if record else ()
        return known

    def _committed(self, output: str, part: str) -> tuple[File, ...]:
        """The files of a part that its step did not declare whole; none if their digests are unknown."""
        files = [file for file in committed_files(self._store, output) if file.path.startswith(f"{part}/")]
        known = [File(f.path.removeprefix(f"{part}/"), f.size, f.digest) for f in files if f.digest is not None]
        return tuple(known) if len(known) == len(files) else ()


def changed_inputs(commit: Commit, current: Mapping[str, Consumed]) -> list[Consumed]:
    """The inputs whose content differs from what was consumed, and those without which the step has run. Without
    digests, another commit counts as changed.

    A missing input has not changed. If an input's newest commit was removed, the newest remaining one counts.
    """
    consumed = {used.directory: used for used in commit.inputs}
    return [
        now for directory, now in current.items() if directory not in consumed or _differs(now, consumed[directory])
    ]


def _differs(now: Consumed, used: Consumed) -> bool:
    if used.digest is None or now.digest is None or used.parts != now.parts:
        return now.commit != used.commit
    return now.digest != used.digest


def unconfirmed(commit: Commit, states: Mapping[str, StepState]) -> bool:
    """Whether the step used a part of an attempt that neither has committed yet nor was given up.

    states: of its inputs, by directory.
    """
    return any(
        used.parts and (state := states.get(used.directory)) and state.claim and state.claim.aim == used.commit
        for used in commit.inputs
    )
