"""Secrets on their way to a job. Ray's head holds them in memory until the job's first command takes them:

    python -m marin_sft.run.job_secrets KEY python script.py

A runtime_env would show them in the dashboard, and in logs that everyone on a node can read. A file would not reach a
head on another machine. What is uploaded as a package stays in the head's memory; no page and no log shows it.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from marin_sft.execution.ray_environment import SECRETS, prepare
from marin_sft.execution.terminal import complain

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

METADATA = "marin_sft_secrets"  # of a job: the key of its secrets
_HEADER = b"marin_sft job secrets\n"  # Ray's error message about a failed upload has the first 15 bytes
_MODULE = "marin_sft.run.job_secrets"
_SECONDS = 30.0


def new_key() -> str:
    return secrets.token_hex(8)


def put(client: JobSubmissionClient, key: str, variables: Mapping[str, str]) -> None:
    """Raises RuntimeError if the cluster does not take them."""
    data = _HEADER + json.dumps({**variables, SECRETS: ",".join(variables)}).encode()
    answer = client._do_request("PUT", f"/api/packages/gcs/{_name(key)}", data=data)
    if answer.status_code != 200:
        raise RuntimeError(f"its secrets could not be sent to it: status {answer.status_code}")


def forget(client: JobSubmissionClient, key: str) -> None:
    """Let the head delete them within ten minutes, if they are still there."""
    client._do_request("GET", f"/api/packages/gcs/{_name(key)}")  # asked for, an unused package gets a time limit


def take(key: str) -> dict[str, str] | None:
    """In a job: its secrets, which are deleted. None if they are not there."""
    address = os.environ["RAY_ADDRESS"]
    prepare(address)
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # from a C extension

    head, name = GcsClient(address=address), f"gcs://{_name(key)}".encode()
    data = head.internal_kv_get(name, None, _SECONDS)
    if data is None:
        return None
    head.internal_kv_del(name, False, None, _SECONDS)
    return json.loads(data.removeprefix(_HEADER))


def command_with(key: str, command: Sequence[str], python: str) -> list[str]:
    """The command that takes the secrets and becomes `command`."""
    return [python, "-m", _MODULE, key, *command]


def without_taking(words: Sequence[str]) -> list[str]:
    """The command in what `command_with` returned; any other unchanged."""
    return list(words[4:] if words[1:3] == ["-m", _MODULE] else words)


def main(argv: Sequence[str]) -> int:
    key, *command = argv
    variables = take(key)
    if variables is None:
        return complain("this job's secrets are gone: they can be taken only once; submit the job again", 2)
    os.environ.update(variables)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        return complain(f"{command[0]}: {error.strerror}", 127)


def _name(key: str) -> str:
    return f"marin_sft_{key}.zip"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
