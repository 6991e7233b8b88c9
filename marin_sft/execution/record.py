"""Write-once provenance: what a launch was, and what an attempt ran with. Never secrets, never the environment."""

from __future__ import annotations

import dataclasses
import functools
import getpass
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import uuid
from typing import Any

from marin_sft.execution.attempt import now
from marin_sft.execution.fingerprint import parts_of
from marin_sft.execution.resources import Resources
from marin_sft.execution.store import Store


@functools.cache
def launch_provenance() -> dict[str, Any]:
    """Who started what from which code: argv, user, host, git commit and uncommitted diff, package versions."""
    script = os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv and sys.argv[0] else os.getcwd()
    return {
        "argv": sys.argv,
        "user": _user(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "git_commit": _git(script, "rev-parse", "HEAD"),
        "git_diff": _git(script, "diff", "HEAD"),
        "packages": dict(sorted((d.metadata["Name"], d.version) for d in importlib.metadata.distributions())),
    }


class RunRecord:
    """The record of one launch under `{prefix}/_runs`, in two write-once parts: what was planned, how it went."""

    def __init__(self, store: Store) -> None:
        script = os.path.splitext(os.path.basename(sys.argv[0] or "python"))[0]
        self._store = store
        self._stem = store.path(f"_runs/{now().replace(':', '')}-{script}-{uuid.uuid4().hex[:6]}")

    def begin(self, description: str | None, plan: list[dict[str, Any]]) -> None:
        self._write("plan", {"description": description, "launch": launch_provenance(), "plan": plan})

    def end(self, results: list[dict[str, Any]]) -> None:
        self._write("outcome", {"results": results})

    def _write(self, part: str, content: dict[str, Any]) -> None:
        try:
            self._store.create_exclusive(f"{self._stem}.{part}.json", json.dumps(content, default=repr).encode())
        except OSError as error:  # a read-only store still serves launches that have nothing to run
            print(f"warning: no record of this launch in {self._store.prefix}: {error}", file=sys.stderr)


def describe(value: Any) -> Any:
    """A config as JSON for people to read: every field, also those that are no part of the identity."""
    if isinstance(value, Resources):
        return {"class": type(value).__qualname__, **dataclasses.asdict(value)}
    parts = parts_of(value, "config")
    if parts is None:
        return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [describe(part.value) for part in parts]
    return {part.key: describe(part.value) for part in parts}


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return None


def _git(folder: str, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
