"""The rules for using Ray, all in one place: loopback, tokens, what is shipped, which variables hold secrets.

`ray_backend` starts or joins Ray by them, `run/ray_run.py` submits jobs by them. Imports no ray: a rule that is an
environment variable must hold before ray is imported.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import urllib.parse

from marin_sft.errors import UserError
from marin_sft.redaction import looks_secret, shown_value

LOOPBACK = ("127.0.0.1", "localhost", "::1")

# Left out of what is shipped to a cluster, in the syntax of .gitignore; what .gitignore names is left out as well.
EXCLUDES = (
    *(".git", ".venv", "venv", "/store", "__pycache__", ".*_cache", ".hypothesis", "node_modules", "*.pack"),
    *(".ray", ".ssh", ".aws", ".netrc", ".gnupg"),  # credentials, where a home directory is shipped
)

# Variables with these names are read by a process as it starts, or by the libraries of a step, and hold no secrets.
HARMLESS = re.compile(
    "(PYTHON|JAX|XLA|LIBTPU|TPU|NCCL|CUDA|OMP|MKL|OPENBLAS|TOKENIZERS|GLIBC|MALLOC|LC|RAY|MARIN(_SFT)?)_?[A-Z0-9_]*"
    "|LD_LIBRARY_PATH|LD_PRELOAD|LANG|TZ|(HF|WANDB)_(HOME|HUB_OFFLINE|MODE|PROJECT|ENTITY)|HF_(DATASETS|TRANSFORMERS)_(CACHE|OFFLINE)"
)

SECRETS = "MARIN_SFT_SECRETS"  # names of variables, joined by commas, that steps get as a task's argument
LAUNCHER = "MARIN_SFT_LAUNCHER"  # set in a job by ray_run: what goes before its command to submit it again
LAUNCH_DIR = "MARIN_SFT_LAUNCH_DIR"  # set in a job by ray_run: what relative prefixes start from there

IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the entrypoint of a job


def may_be_seen(variable: str, value: str) -> bool:
    """Whether a variable is known to be harmless, by its name and by what is in it."""
    return (
        HARMLESS.fullmatch(variable) is not None
        and shown_value(variable, value) == value
        and not looks_secret(variable)
    )


def secrets_of_this_process() -> dict[str, str]:
    """The variables named by MARIN_SFT_SECRETS that are set here.

    They reach steps as arguments of tasks: a runtime_env is printed into logs that everybody on a node can read, and
    shown by the dashboard; arguments are in neither.
    """
    names = [name for name in os.environ.get(SECRETS, "").split(",") if name]
    return {name: os.environ[name] for name in (*names, SECRETS) if name in os.environ}


def is_loopback(address: str) -> bool:
    """Whether an address (host, host:port or URL) is this machine's, or the near end of a tunnel."""
    return urllib.parse.urlsplit(address if "://" in address else f"//{address}").hostname in LOOPBACK


def prepare(address: str | None) -> None:
    """Set the environment variables that Ray needs, where they are not set: `address` to join, None to start a Ray."""
    for name, value in _variables(address).items():
        os.environ.setdefault(name, value)
    if address is None or is_loopback(address):
        for name in ("NO_PROXY", "no_proxy"):  # a proxy for the web cannot reach this machine's own ports
            os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost")))


def _variables(address: str | None) -> dict[str, str]:
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if address is None or is_loopback(address):
        # Despite its name it makes Ray on Linux, too, bind every port to 127.0.0.1 and take that address as it is;
        # without it Ray puts the address of a network card in its place.
        variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if address is not None and has_token():
        variables["RAY_AUTH_MODE"] = "token"  # what a cluster asks for by default, and a driver does not offer
    return variables


def has_token() -> bool:
    return "RAY_AUTH_TOKEN" in os.environ or os.path.exists(_token_path())


def _token_path() -> str:
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")


def keep_token_private() -> None:
    """Before the start of a Ray, which would write its token for everybody on the machine to read."""
    path = _token_path()
    if "RAY_AUTH_TOKEN" in os.environ or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    with contextlib.suppress(OSError):  # another user's, or read-only: then it is not ours to change
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            if os.stat(path).st_mode & 0o077:
                os.chmod(path, 0o600)
            return
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32))


def local_options() -> dict[str, object]:
    """For `ray.init`: a Ray of this process's own, never one that happens to run on the machine."""
    dashboard = importlib.util.find_spec("aiohttp_cors") is not None  # comes with ray[default], as the dashboard does
    return {**_common(), "address": "local", "include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}


def cluster_options(address: str) -> dict[str, object]:
    """For `ray.init`: the cluster at `address`, with the directory MARIN_SFT_WORKING_DIR shipped to it if that is set.

    Raises:
        UserError: the address is a dashboard's.
    """
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS={address} is a dashboard: steps need the address of the cluster itself, e.g. 127.0.0.1:6379; "
            "to run the whole script there as a job: python -m marin_sft.run.ray_run -- python script.py"
        )
    working_dir = os.environ.get("MARIN_SFT_WORKING_DIR")
    shipped = {}
    if working_dir and IN_JOB not in os.environ:  # a job's own working directory is on all nodes already
        shipped = {"working_dir": working_dir, "excludes": list(EXCLUDES)}
    return {**_common(), "runtime_env": shipped}


def _common() -> dict[str, object]:
    return {"namespace": "marin_sft", "log_to_driver": False, "logging_level": "ERROR"}
