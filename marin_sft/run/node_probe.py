"""What `marin-sft cluster doctor` asks a node. It is sent to the node as source, so the node needs no marin_sft.

So it imports only the standard library at the top.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
import urllib.request
from typing import Any

PACKAGES = ("ray", "marin_sft", "marin-levanter", "jax", "transformers")
CREDENTIALS = ("HF_TOKEN", "WANDB_API_KEY")
_GCE = "http://169.254.169.254/computeMetadata/v1/instance/zone"  # by number: without a cloud, its name takes long
_DEVICES = "import jax; print(len(jax.devices()))"


class NodeProbe:
    """Runs as an actor on a node."""

    def clock(self) -> float:
        return time.time()

    def facts(self) -> dict[str, Any]:
        temporary = os.environ.get("RAY_TMPDIR", "/tmp")
        return {
            "versions": {"Python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
            "code": _digest_of("marin_sft"),
            "credentials": [name for name in CREDENTIALS if _has(name)],
            "disks": {place: _space(place) for place in (temporary, "/dev/shm") if os.path.isdir(place)},
        }

    def prefix(self, prefix: str) -> str:
        """What is wrong with the prefix, or an empty string."""
        from marin_sft.execution.stores import open_store, probe

        store = open_store(prefix)
        try:
            probe(store)
        except Exception as error:
            return str(error)
        finally:
            store.prune(store.path("_probe"))
        return ""

    def region(self) -> str | None:
        """`us-central2`, where that can be known."""
        if named := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
            return named
        request = urllib.request.Request(_GCE, headers={"Metadata-Flavor": "Google"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=0.5) as answer:
                zone = answer.read().decode().rpartition("/")[2]
        except OSError:
            return None
        return zone.rpartition("-")[0]


def count_devices(kind: str, seconds: float) -> str:
    """The number of devices that JAX sees on this node, or why it sees none. kind: GPU or TPU."""
    hidden = ("CUDA_VISIBLE_DEVICES", "JAX_PLATFORMS")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    env |= {"JAX_PLATFORMS": {"GPU": "cuda", "TPU": "tpu"}[kind], "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if kind == "TPU":  # of a slice, this host alone
        env |= {"TPU_PROCESS_BOUNDS": "1,1,1", "CLOUD_TPU_TASK_ID": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _DEVICES], env=env, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:g} seconds"
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("-")]
        error = [line for line in lines if "Error" in line.partition(":")[0]] or lines or ["no output"]
        return error[-1]
    return done.stdout.split()[-1]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "in a directory" if _folder(package) else "missing"


def _folder(package: str) -> str | None:
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    return next(iter(found.submodule_search_locations or ()), None) if found else None


def _digest_of(package: str) -> str:
    """Of its source, which may differ under one version number."""
    digest, top = hashlib.sha256(), _folder(package)
    files = [os.path.join(folder, name) for folder, _, names in os.walk(top or "") for name in names]
    for path in sorted(path for path in files if path.endswith(".py")):
        with open(path, "rb") as file:
            digest.update(os.path.relpath(path, top).encode() + b"\0" + hashlib.sha256(file.read()).digest())
    return digest.hexdigest()[:8] if top else "missing"


def _has(name: str) -> bool:
    if os.environ.get(name):
        return True
    if name != "HF_TOKEN":
        return False
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    return os.path.isfile(os.environ.get("HF_TOKEN_PATH") or os.path.join(home, "token"))


def _space(place: str) -> tuple[int, int]:
    """Its size and what is free, in bytes."""
    usage = shutil.disk_usage(place)
    return usage.total, usage.free
