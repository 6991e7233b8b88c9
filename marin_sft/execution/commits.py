"""Commits: which attempt is a step's output, what it consumed, and which files it holds.

    {directory}/commits/000001.json   create-exclusive
    {directory}/3/.files.json         the files of attempt 3, with their sizes and digests

A step's output is that of its newest commit.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import dataclass, field

from marin_sft.errors import MarinSftError, StoreError
from marin_sft.execution.clock import seconds_since_epoch
from marin_sft.execution.documents import canonical_json, numbers_of, read_document, to_json
from marin_sft.execution.identity import Payload
from marin_sft.execution.store import FileInfo, Store
from marin_sft.nearest import listed

FILES = ".files.json"
"""The list of an attempt's files, in its directory."""


@dataclass(frozen=True)
class Consumed:
    """An input as it was used: the step's directory, its commit number and its output digest (None: unknown).

    parts: if only these parts of the output were used, to which the digest then belongs. They may have been used before
        the step committed: then `commit` is the number that it aimed at.
    """

    directory: str
    commit: int
    digest: str | None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Commit:
    """A published output.

    source: digest of the step function's source at the time.
    settings: the values of config fields that are not part of the identity.
    digest: of all files of the output.
    result: digest of all files but the step's log; None if it keeps no log.
    """

    number: int
    attempt: int
    fingerprint: str
    payload: Payload
    digest: str | None
    inputs: tuple[Consumed, ...]
    source: str | None
    time: str
    settings: dict[str, object] = field(default_factory=dict)
    result: str | None = None


def commit_numbers(store: Store, directory: str) -> list[int]:
    return numbers_of(store.names(f"{store.path(directory)}/commits"))


def read_commit(store: Store, directory: str, number: int) -> Commit | None:
    path = f"{store.path(directory)}/commits/{number:06}.json"
    advice = (
        "restore it from a copy, or remove it and rerun the step with --force_run; until then an older commit counts, "
        "if there is one"
    )
    return read_document(
        store,
        path,
        Commit,
        advice,
        lambda commit: commit.number == number and math.isfinite(seconds_since_epoch(commit.time)),
    )


def publish(store: Store, directory: str, commit: Commit) -> Commit | None:
    """Commit the attempt, or adopt the commit that another launch published first for the same step and number.

    None if the number belongs to another step: two steps may share a directory chosen by `override_output_path`.
    """
    if store.create_exclusive(f"{store.path(directory)}/commits/{commit.number:06}.json", to_json(commit)):
        try:
            store.point_latest(store.path(directory), str(commit.attempt))
        except OSError as error:  # the link is only for people: the commit is valid without it
            print(f"warning: {directory}/latest does not lead to attempt {commit.attempt}: {error}", file=sys.stderr)
        return commit
    found = read_commit(store, directory, commit.number)
    return found if found is not None and found.fingerprint == commit.fingerprint else None


def output_digest(files: list[FileInfo]) -> str | None:
    """The digest of a whole output; None if a file has none."""
    if any(file.digest is None for file in files):
        return None
    return hashlib.sha256(canonical_json([list(file) for file in files]).encode()).hexdigest()


def check_whole(store: Store, name: str, output: str) -> None:
    """Raise MarinSftError unless the committed `output` of the step `name` has all its files."""
    if not store.names(output):
        raise MarinSftError(
            f"its input '{name}' is committed, but the output {output} is gone; rerun it with --force_run {name}"
        )
    if damaged := damaged_files(store, output):
        shown = listed(damaged, most=3)
        raise MarinSftError(
            f"its input '{name}' is incomplete: {shown} of {output} is missing or has another size than when it was "
            f"committed; restore it, or rerun the step with --force_run {name}"
        )


def check_part(store: Store, name: str, output: str, part: str) -> None:
    """Raise MarinSftError unless the `output` of the step `name` has this part."""
    parent, _, leaf = part.rpartition("/")
    there = store.names(f"{output}/{parent}".rstrip("/"))
    if leaf not in there:
        shown = listed(there, leaf) or "nothing"
        raise MarinSftError(f"its input '{name}' has no {part}; {parent or 'it'} has {shown}, in {output}")


def damaged_files(store: Store, output: str) -> list[str]:
    """The files of a committed output that are missing or have another size; empty if its file list is unreadable."""
    committed = committed_files(store, output)
    try:
        there = store.sizes(output)
    except StoreError:
        return []
    return [file.path for file in committed if there.get(file.path) != file.size]


def committed_files(store: Store, output: str) -> list[FileInfo]:
    """The files that a committed output lists; empty if the list is unreadable."""
    try:
        return [FileInfo(**file) for file in json.loads(store.read(f"{output}/{FILES}") or b"[]")]
    except (ValueError, TypeError):
        return []
