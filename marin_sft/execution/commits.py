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
from typing import Any

from marin_sft.errors import StoreError
from marin_sft.execution.clock import seconds_since_epoch
from marin_sft.execution.documents import canonical_json, numbers_of, read_document, to_json
from marin_sft.execution.identity import Payload
from marin_sft.execution.store import FileInfo, Store


@dataclass(frozen=True)
class Consumed:
    """An input as it was used: the step's directory, its commit number and output digest (None: no digest known)."""

    directory: str
    commit: int
    digest: str | None


@dataclass(frozen=True)
class Commit:
    """A published output. `source` is the digest of the step function's source when it was made, `settings` the values
    of the config's fields that are no part of the identity."""

    number: int
    attempt: int
    fingerprint: str
    payload: Payload
    digest: str | None
    inputs: tuple[Consumed, ...]
    source: str | None
    time: str
    settings: dict[str, Any] = field(default_factory=dict)


def commit_numbers(store: Store, directory: str) -> list[int]:
    return numbers_of(store.names(f"{store.path(directory)}/commits"))


def read_commit(store: Store, directory: str, number: int) -> Commit | None:
    path = f"{store.path(directory)}/commits/{number:06}.json"
    advice = (
        "put it back from a copy; or remove it, and run the step again with --force_run: until then an older commit of "
        "it counts, if it has one"
    )
    return read_document(
        store,
        path,
        Commit,
        advice,
        lambda commit: commit.number == number and math.isfinite(seconds_since_epoch(commit.time)),
    )


def publish(store: Store, directory: str, commit: Commit) -> Commit | None:
    """Commit the attempt, or adopt the commit of the same step that another launch published under this number first.

    None where the number is another step's: two may share a directory that was chosen for them.
    """
    if store.create_exclusive(f"{store.path(directory)}/commits/{commit.number:06}.json", to_json(commit)):
        try:
            store.point_latest(store.path(directory), str(commit.attempt))
        except OSError as error:  # it is for people alone: the commit stands
            print(f"warning: {directory}/latest does not lead to attempt {commit.attempt}: {error}", file=sys.stderr)
        return commit
    found = read_commit(store, directory, commit.number)
    return found if found is not None and found.fingerprint == commit.fingerprint else None


def output_digest(files: list[FileInfo]) -> str | None:
    """Of an output as a whole; None when a file has none."""
    if any(file.digest is None for file in files):
        return None
    return hashlib.sha256(canonical_json([list(file) for file in files]).encode()).hexdigest()


def damaged_files(store: Store, output: str) -> list[str]:
    """The files of a committed output that are gone, or have another size, as far as its list of files can be read."""
    committed = committed_files(store, output)
    try:
        there = store.sizes(output)
    except StoreError:
        return []
    return [file.path for file in committed if there.get(file.path) != file.size]


def committed_files(store: Store, output: str) -> list[FileInfo]:
    """What a committed output lists as its files; nothing where the list cannot be read."""
    try:
        return [FileInfo(**file) for file in json.loads(store.read(f"{output}/.files.json") or b"[]")]
    except (ValueError, TypeError):
        return []
