"""Write-once provenance: what a launch was, and what an attempt ran with. Recognizable secrets are removed.

Everyone who can read the store can read it, except for uncommitted changes: these are in a file that only the user who
launched may read.
"""

from __future__ import annotations

import dataclasses
import functools
import getpass
import json
import math
import os
import platform
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from marin_sft.execution.clock import now, seconds_since_epoch
from marin_sft.execution.configs import hardcoded_paths, parts_of
from marin_sft.execution.documents import JsonObject, as_document, read_document
from marin_sft.execution.graph import Graph, Node
from marin_sft.execution.process import ProcessIdentity
from marin_sft.execution.ray_environment import IN_JOB, secrets_of_this_process
from marin_sft.execution.resources import Resources
from marin_sft.execution.step import StepConfig
from marin_sft.execution.store import Store
from marin_sft.redaction import looks_secret, redacted, redacted_words, shown_value, without_signature

RUNS = "_runs"
_MOST_OF_A_DIFF = 256 * 1024  # bytes
_PATIENCE = 10.0  # seconds for git

# Prefixes of the names of variables that a step's libraries read.
_TELLING = (
    "CUDA_",
    "HF_",
    "JAX_",
    "LIBTPU_",
    "MARIN_",
    "NCCL_",
    "OMP_",
    "RAY_",
    "TOKENIZERS_",
    "TPU_",
    "WANDB_",
    "XLA_",
)


@functools.cache
def launch_provenance() -> dict[str, object]:
    """Who started what from which code: argv, user, host, git commit, package versions."""
    script = _folder_of_script()
    return {
        "argv": redacted_words(sys.argv),
        "user": _user(),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        # A job's shipped directory is not a repository. There ray_run sets the commit, and whether there are changes.
        "git_commit": _git(script, "rev-parse", "HEAD") or os.environ.get("GIT_COMMIT"),
        "git_dirty": bool(_uncommitted(script)) or os.environ.get("GIT_DIRTY") == "1",
        "packages": dict(sorted(_packages())),
    }


def _folder_of_script() -> str:
    return os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv and sys.argv[0] else os.getcwd()


@functools.cache
def _uncommitted(folder: str) -> bytes | None:
    """The output of `git diff HEAD`, without secrets and cut to a maximal length; None outside a repository."""
    command = ["git", "-C", folder, "diff", "--no-ext-diff", "--no-color", "HEAD"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    with process:
        assert process.stdout is not None
        limit = threading.Timer(_PATIENCE, process.kill)
        limit.start()
        diff = process.stdout.read(_MOST_OF_A_DIFF + 1)
        cut = len(diff) > _MOST_OF_A_DIFF
        process.kill()
        limit.cancel()
    if cut:
        diff = diff[: diff.rfind(b"\n", 0, _MOST_OF_A_DIFF) + 1 or _MOST_OF_A_DIFF]
        head = f"# the first {len(diff):,} bytes of the changes; the rest was omitted\n"
    shown = redacted(diff.decode(errors="replace"))
    return (f"{head if cut else ''}{shown}").encode() if shown else None


def telling_environment() -> dict[str, str]:
    """The variables of this process that can affect a step, without secrets."""
    hidden = {*secrets_of_this_process(), IN_JOB}
    return {
        name: redacted(value)
        for name, value in sorted(os.environ.items())
        if name.startswith(_TELLING) and name not in hidden and not looks_secret(name)
    }


def _packages() -> Iterator[tuple[str, str]]:
    """(name, version) of installed packages, from directory names, since parsing the metadata takes 0.1 s."""
    for folder in filter(os.path.isdir, sys.path):
        for entry in os.listdir(folder):
            package, _, kind = entry.rpartition(".")
            if kind in ("dist-info", "egg-info"):
                name, _, version = package.partition("-")
                yield name, version


class RunRecord:
    """The record of one launch under `{prefix}/_runs`, in two write-once files.

    `{utc}-{script}-{id}.begin.json` is written before the launch reads any step, and protects its steps from gc.
    `.end.json` has the plan and the results. A third file, `.diff`, has uncommitted changes.
    """

    def __init__(self, store: Store, plan: str | None = None) -> None:
        """plan: the digest of the file whose plan the launch carries out."""
        script = os.path.splitext(os.path.basename(sys.argv[0] or "python"))[0]
        self._store = store
        self.name = f"{now().replace(':', '')}-{script}-{uuid.uuid4().hex[:6]}"
        diff = f"{RUNS}/{self.name}.diff" if _uncommitted(_folder_of_script()) else None
        self.provenance = {**launch_provenance(), "run": self.name, "git_diff": diff}
        if plan is not None:
            self.provenance["plan"] = plan

    def begin(self, description: str | None, graph: Graph) -> OSError | None:
        """Returns the error if the record cannot be written: a launch with nothing to run does not need it.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        content = {
            "description": description and redacted(description),
            "time": now(),
            "owner": dataclasses.asdict(ProcessIdentity.current()),
            "steps": [_step_json(node) for node in graph],
            "paths": sorted({without_signature(path) for node in graph for path in hardcoded_paths(node.step.config)}),
            "launch": self.provenance,
        }
        return self._write("begin", content) or self._write_diff()

    def _write_diff(self) -> OSError | None:
        diff = _uncommitted(_folder_of_script())
        try:
            if diff:
                self._store.create_private(self._store.path(str(self.provenance["git_diff"])), diff)
        except OSError as error:
            return error
        return None

    def end(self, status: str, plan: list[dict[str, object]], results: list[dict[str, object]]) -> None:
        """status: done, failed, interrupted, or refused before anything ran."""
        self._write("end", {"status": status, "time": now(), "plan": plan, "results": results})

    def _write(self, part: str, content: Mapping[str, object]) -> OSError | None:
        path = self._store.path(f"{RUNS}/{self.name}.{part}.json")
        try:
            self._store.create_exclusive(path, json.dumps(content, default=repr).encode())
        except OSError as error:
            if getattr(error, "silent", False):
                raise
            return error
        return None


def _step_json(node: Node) -> dict[str, object]:
    config = node.step.config
    told = config.told() if isinstance(config, StepConfig) else None
    about: dict[str, object] = {
        "name": node.name,
        "directory": node.directory,
        "inputs": [used.directory for used in node.uses],
    }
    return about if told is None else {**about, "told": told}


@dataclass(frozen=True, order=True)
class Launch:
    """A recorded launch. `name` begins with its time, so that launches sort by time."""

    name: str
    ended: bool

    @property
    def time(self) -> float:
        """The start in seconds since the epoch, by the clock of the launching machine."""
        return seconds_since_epoch(f"{self.name[:13]}:{self.name[13:15]}:{self.name[15:22]}")

    @property
    def is_ours(self) -> bool:
        """Whether `RunRecord` gave the name."""
        try:
            return self.time > 0
        except ValueError:
            return False

    @property
    def script(self) -> str:
        return self.name[23:].rpartition("-")[0]


def read_launches(store: Store) -> list[Launch]:
    """Every launch under the prefix, newest first. One listing."""
    names = store.names(store.path(RUNS))
    ended = {name.removesuffix(".end.json") for name in names if name.endswith(".end.json")}
    begun = [name.removesuffix(".begin.json") for name in names if name.endswith(".begin.json")]
    launches = (Launch(name, name in ended) for name in begun)
    return sorted((launch for launch in launches if launch.is_ours), reverse=True)


@dataclass(frozen=True)
class _Step:
    name: str
    directory: str
    inputs: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Provenance:
    argv: tuple[str, ...] | None = None
    user: str | None = None
    host: str | None = None
    git_commit: str | None = None
    git_diff: str | None = None


@dataclass(frozen=True)
class _Begin:
    steps: tuple[_Step, ...]
    paths: tuple[str, ...]
    owner: ProcessIdentity | None
    launch: _Provenance
    description: str | None


@dataclass(frozen=True)
class _Planned:
    name: str
    path: str
    action: str
    reason: str
    detail: str = ""
    diff: tuple[tuple[object, ...], ...] = ()


@dataclass(frozen=True)
class _Result:
    name: str
    path: str
    result: str
    commit: int | None = None
    attempt: int | None = None
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class _End:
    status: str
    time: str
    plan: tuple[_Planned, ...]
    results: tuple[_Result, ...]


def read_begin(store: Store, launch: Launch) -> JsonObject:
    found = _read(store, launch, "begin", lambda begin: as_document(_Begin, begin) is not None)
    return found or {"steps": [], "paths": [], "owner": None, "launch": {}, "description": None}


def read_end(store: Store, launch: Launch) -> JsonObject | None:
    """None if the launch is running or was killed."""
    return _read(store, launch, "end", _is_end) if launch.ended else None


def _is_end(end: JsonObject) -> bool:
    found = as_document(_End, end)
    differences = [difference for planned in found.plan for difference in planned.diff]
    return all(len(d) == 3 for d in differences) and all(math.isfinite(r.seconds) for r in found.results)


def _read(store: Store, launch: Launch, part: str, check: Callable[[JsonObject], bool]) -> JsonObject | None:
    advice = f"if that launch has ended, remove its files {RUNS}/{launch.name}.*; gc then keeps nothing for it"
    return read_document(store, store.path(f"{RUNS}/{launch.name}.{part}.json"), JsonObject, advice, check)


def describe(value: object, name: str = "") -> object:
    """A config as JSON for people: all fields, even those outside the identity, without secrets."""
    if isinstance(value, Resources):
        return {"class": type(value).__qualname__, **dataclasses.asdict(value)}
    parts = parts_of(value, "config")
    if parts is None:
        return shown_value(name, value if isinstance(value, bool | int | float | str | None) else repr(value))
    if isinstance(value, list | tuple | set | frozenset):
        return [describe(part.value, name) for part in parts]
    return {part.key: describe(part.value, part.key) for part in parts}


def asked(resources: Resources) -> JsonObject:
    """A request as JSON, without its environment."""
    found = {"class": type(resources).__qualname__, **dataclasses.asdict(resources)}
    return {name: value for name, value in found.items() if name != "runtime_env"}


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
