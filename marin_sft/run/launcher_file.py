"""The cluster of a launcher file (`ray up FILE`): finding the file, and a tunnel to the cluster's dashboard."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TextIO

import yaml

from marin_sft.errors import UserError
from marin_sft.nearest import did_you_mean
from marin_sft.run.cluster import free_port

_GAP = re.compile("<[A-Z]+>")  # a setting of an example of infra/ that is the user's
_PLACES = "infra/**/*.y*ml"
_POLL = 0.1
_PATIENCE = 120.0  # seconds for the provider to name the head's address, and for ssh to connect


def find_launcher_file(name: str) -> str:
    """The file `name`, or the launcher file in infra/ of this name or with this `cluster_name`.

    Raises:
        UserError: there is none or more than one, `ray up` does not take it, or it has gaps.
    """
    if os.path.isfile(name):
        if _cluster_name(name) is None:
            raise UserError(
                f"--cluster {name}: expected a file for `ray up`, with a cluster_name; forward another cluster's "
                "dashboard yourself (kubectl port-forward, ssh -L), and use --address"
            )
        _require_filled(name)
        return name
    known = [(path, _cluster_name(path)) for path in sorted(glob.glob(_PLACES, recursive=True))]
    files = [path for path, cluster in known if cluster and name in (cluster, _stem(path))]
    if len(files) > 1:
        raise UserError(f"--cluster {name}: the cluster_name of {', '.join(files)}; expected one of these files")
    if not files:
        names = {_stem(path): cluster for path, cluster in known if cluster}
        hint = did_you_mean(name, [*names, *names.values()]) or (f"; there are: {', '.join(names)}" if names else "")
        raise UserError(f"--cluster {name}: no such file, and no launcher file in infra/ with this name{hint}")
    _require_filled(files[0])
    return files[0]


def _require_filled(path: str) -> None:
    """Raises UserError for an example in which settings are still to be filled in."""
    with open(path, encoding="utf-8") as file:
        gaps = sorted(set(_GAP.findall(json.dumps(list(yaml.safe_load_all(file)), default=str))))
    if gaps:
        raise UserError(
            f"--cluster {path}: {', '.join(gaps)} must be filled in; python infra/make.py gcp writes the file with "
            "your settings, see docs/guides/clusters.md"
        )


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _cluster_name(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            parsed = [part for part in yaml.safe_load_all(file) if isinstance(part, dict)]
    except (OSError, UnicodeError, yaml.YAMLError):
        return None
    return next((str(part["cluster_name"]) for part in parsed if "cluster_name" in part and "provider" in part), None)


@contextlib.contextmanager
def tunnel_to_dashboard(file: str) -> Iterator[str]:
    """Inside the block, the URL at which the dashboard of the cluster answers on this machine.

    Raises:
        UserError: the provider knows no head, or ssh does not reach it.
    """
    port = free_port()  # not the usual one: what already answers there would get the job, with its secrets
    command = [sys.executable, "-m", "ray.scripts.scripts", "dashboard", file, f"--port={port}"]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _await_tunnel(process, port, file, said)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # ssh, too
            process.wait()


def _await_tunnel(process: subprocess.Popen[bytes], port: int, file: str, said: TextIO) -> None:
    give_up = time.monotonic() + _PATIENCE
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(_POLL)
    said.seek(0)
    lines = [line.strip() for line in said.read().splitlines() if line.strip()]
    reason = lines[-1] if lines else f"no answer within {_PATIENCE:g} seconds"
    raise UserError(
        f"--cluster: `ray dashboard {file}` has not reached the head: {reason}; is it up (`ray up {file}`)?"
    )
