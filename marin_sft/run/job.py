"""A Ray job: its command line, its variables, its packages, and what is shipped."""

from __future__ import annotations

import getpass
import os
import re
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from marin_sft.errors import UserError
from marin_sft.execution.ray_environment import EXCLUDES, LAUNCH_DIR, LAUNCHER, may_be_seen
from marin_sft.redaction import has_token
from marin_sft.run import job_secrets

_MOST_BYTES = 512 * 1024**2  # of a package; Ray refuses larger ones, but only after packing them
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
SUBMISSION_ID = re.compile(r"[\w.]+-[\w.]+-\d{8}T\d{6}Z-[0-9a-f]{4}", re.ASCII)  # see `make_submission_id`
_PYTHON = re.compile(r"python[\d.]*")
_SECONDS_OF_PIP = 1800  # to install the packages of a job; Ray's default is 600


@dataclass(frozen=True)
class Job:
    """A job to submit.

    name: what the dashboard shows as its name.
    secrets: variables that nobody but the job's command may see; `secrets_key` names them.
    reserved: what Ray reserves for the command, as arguments of `submit_job`.
    """

    submission_id: str
    name: str
    entrypoint: str
    runtime_env: Mapping[str, object]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets_key: str = ""
    reserved: Mapping[str, Any] = field(default_factory=dict)


def make_job(
    command: Sequence[str],
    variables: Mapping[str, str],
    working_dir: str,
    *,
    here: bool,
    submission_id: str | None = None,
    visible: Collection[str] = (),
    launcher: str = "",
    packages: Sequence[str] = (),
    reserved: Mapping[str, Any] | None = None,
) -> Job:
    """Build the job of a command.

    here: the cluster's head is on this machine, and so has its files and interpreters.
    visible: the variables that everyone may see.
    launcher: the words to put before the command to submit it again.
    packages: requirements that pip installs first, for the command and its steps.

    Raises:
        UserError: secrets in the command, or a too large working directory.
    """
    if any(map(has_token, command)):
        raise UserError(
            "a word of the command looks like a secret, and Ray shows commands in its dashboard; let the script "
            "take it from the environment: --env_vars NAME"
        )
    hidden = {n: value for n, value in variables.items() if n not in visible and not may_be_seen(n, value)}
    check_size(working_dir)
    shown = {name: value for name, value in variables.items() if name not in hidden}
    key = job_secrets.new_key() if hidden else ""
    words = job_secrets.command_with(key, command, _interpreter(command)) if hidden else command
    runtime_env: dict[str, object] = {
        "working_dir": os.path.abspath(working_dir),
        "excludes": list(EXCLUDES),
        "env_vars": {**_own_variables(command, working_dir, here), LAUNCHER: launcher, **shown},
    }
    if packages:
        runtime_env |= {"pip": list(packages), "config": {"setup_timeout_seconds": _SECONDS_OF_PIP}}
    return Job(
        submission_id or make_submission_id(command),
        _name(command),
        f"exec {shlex.join(words)}",  # signals go to the command, not to a shell
        runtime_env,
        hidden,
        key,
        reserved or {},
    )


def _interpreter(command: Sequence[str]) -> str:
    return command[0] if _PYTHON.fullmatch(os.path.basename(command[0])) else "python"


def parse_variables(given: Sequence[Sequence[str]]) -> dict[str, str]:
    """`[["KEY", "value"], ["KEY=value"], ["KEY"]]` as a mapping. A lone KEY has its value in this environment.

    Raises:
        UserError: anything else. The message contains no value.
    """
    found = {}
    for words in given:
        name, equals, value = words[0].partition("=")
        if not _VARIABLE.fullmatch(name):
            raise UserError("--env_vars: expected KEY VALUE, KEY=VALUE or KEY, with a KEY of letters, digits and _")
        if len(words) > 2 or (equals and len(words) > 1):
            raise UserError(f"--env_vars {name}: got {len(words)} words; use a separate --env_vars for each variable")
        if len(words) == 1 and not equals and name not in os.environ:
            raise UserError(f"--env_vars {name}: not set here, so there is no value to copy; export it, or add a value")
        if len(words) == 2 and (words[1] in os.environ or _ASSIGNMENT.match(words[1])):
            raise UserError(
                f"--env_vars {name}: expected a value after it, got what looks like another variable; use a separate "
                f"--env_vars for each, or write {name}=VALUE"
            )
        found[name] = words[1] if len(words) == 2 else value if equals else os.environ[name]
    return found


def make_submission_id(command: Sequence[str]) -> str:
    """`{script}-{user}-{UTC}-{4 hex digits}`."""
    parts = [_name(command), getpass.getuser(), time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()), secrets.token_hex(2)]
    return "-".join(re.sub(r"[^\w.]+", "_", part, flags=re.ASCII) for part in parts)


def _name(command: Sequence[str]) -> str:
    """Of the script or module that it runs."""
    after_module = [command[i + 1] for i, word in enumerate(command[:-1]) if word == "-m"]
    script = next((word for word in command if word.endswith(".py")), (after_module or command)[0])
    return os.path.basename(script).removesuffix(".py")


def _own_variables(command: Sequence[str], working_dir: str, here: bool) -> dict[str, str]:
    """The origin and code version of the launch. A shipped directory has no .git."""
    variables = {name: os.environ[name] for name in ("MARIN_SFT_PREFIX", "MARIN_PREFIX") if name in os.environ}
    variables[LAUNCH_DIR] = os.getcwd() if here else ""
    if here:  # programs of this interpreter's environment come first; Ray fills in the rest
        variables["PATH"] = f"{os.path.dirname(sys.executable)}:${{PATH}}"
    variables["RAY_JOB_STOP_WAIT_TIME_S"] = "60"  # time to release claims and say how to resume; Ray's default is 3 s
    commit = _git(working_dir, "rev-parse", "HEAD")
    if commit:
        variables["GIT_COMMIT"] = commit
        variables["GIT_DIRTY"] = "1" if _git(working_dir, "status", "--porcelain") else "0"
    script = next((word for word in command if word.endswith(".py")), None)
    if script and not os.path.isabs(script) and os.path.dirname(script):
        # Ray adds the working directory to the workers' path, but not the script's directory with its helper modules.
        variables["PYTHONPATH"] = f"{os.path.normpath(os.path.dirname(script))}:${{PYTHONPATH}}"
    return variables


def check_script(command: Sequence[str], working_dir: str) -> None:
    """Raises UserError for `python SCRIPT` if the script has a relative path and is not in the working directory."""
    if len(command) < 2 or not _PYTHON.fullmatch(os.path.basename(command[0])):
        return
    script = command[1]
    if script.endswith(".py") and not os.path.isabs(script) and not os.path.isfile(os.path.join(working_dir, script)):
        raise UserError(f"{shlex.join(command[:2])}: no {script} in --working_dir {os.path.abspath(working_dir)}")


def check_size(working_dir: str) -> None:
    """Raises:
    UserError: it is not a directory, or is larger than Ray accepts; names the largest parts.
    """
    if not os.path.isdir(working_dir):
        raise UserError(f"--working_dir {working_dir}: expected a directory")
    sizes: dict[str, int] = {}
    for path in _shipped(working_dir):
        top = path.partition(os.sep)[0]
        try:
            sizes[top] = sizes.get(top, 0) + os.lstat(os.path.join(working_dir, path)).st_size
        except FileNotFoundError:  # deleted, but still in git
            continue
    if sum(sizes.values()) > _MOST_BYTES:
        largest = sorted(sizes, key=sizes.__getitem__, reverse=True)[:5]
        listed = ", ".join(f"{name} {sizes[name] / 1024**2:,.0f} MiB" for name in largest)
        raise UserError(
            f"--working_dir {working_dir} holds {sum(sizes.values()) / 1024**2:,.0f} MiB, but a job can ship at most "
            f"{_MOST_BYTES // 1024**2} MiB of code. Largest: {listed}. Exclude what is not code in .gitignore, or use "
            "a smaller --working_dir"
        )


def _shipped(working_dir: str) -> list[str]:
    """Approximately the files that Ray will pack."""
    listed = _git(working_dir, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed is not None:
        return [path for path in listed.split("\0") if path]
    left_out = {name.strip("/") for name in EXCLUDES}
    found = []
    for folder, folders, files in os.walk(working_dir):
        folders[:] = [name for name in folders if name not in left_out and not name.endswith("_cache")]
        found += [os.path.relpath(os.path.join(folder, name), working_dir) for name in files]
    return found


def _git(folder: str, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
