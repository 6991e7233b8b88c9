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
import shlex
import urllib.parse
from collections.abc import Collection

from marin_sft.errors import UserError
from marin_sft.execution.step import StepKind
from marin_sft.machines import GPU_SHARE
from marin_sft.redaction import looks_secret, shown_value

LOOPBACK = ("127.0.0.1", "localhost", "::1")

# Not shipped to a cluster, in .gitignore syntax. What .gitignore excludes is not shipped either.
EXCLUDES = (
    *(".git", ".venv", "venv", "/store", "__pycache__", ".*_cache", ".hypothesis", "node_modules", "*.pack"),
    *(".ray", ".ssh", ".aws", ".netrc", ".gnupg"),  # credentials, in case a home directory is shipped
)

# Variables that a process reads as it starts, or that a step's libraries read, and that hold no secrets.
HARMLESS = re.compile(
    "(PYTHON|JAX|XLA|LIBTPU|TPU|NCCL|CUDA|OMP|MKL|OPENBLAS|TOKENIZERS|GLIBC|MALLOC|LC|RAY|MARIN(_SFT)?)_?[A-Z0-9_]*"
    "|LD_LIBRARY_PATH|LD_PRELOAD|LANG|TZ|(HF|WANDB)_(HOME|HUB_OFFLINE|MODE|PROJECT|ENTITY)|HF_(DATASETS|TRANSFORMERS)_(CACHE|OFFLINE)"
)

SECRETS = "MARIN_SFT_SECRETS"  # comma-separated names of variables that steps get as a task argument
LAUNCHER = "MARIN_SFT_LAUNCHER"  # set by ray_run in a job: the words to put before its command to submit it again
LAUNCH_DIR = "MARIN_SFT_LAUNCH_DIR"  # set by ray_run in a job: the directory that relative prefixes start from

_OF_A_LAUNCH = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_", "MARIN_SFT_")
# In the metadata of a job: what the dashboard shows as its name; and where output is that Ray does not have.
NAME_OF_JOB, OUTPUT_OF_JOB, LOGS_OF_STEPS = "job_name", "output", "logs of steps"
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for the entrypoint of a job


def may_be_seen(variable: str, value: str) -> bool:
    """Whether a variable is known to be harmless, by its name and its value."""
    return (
        HARMLESS.fullmatch(variable) is not None
        and shown_value(variable, value) == value
        and not looks_secret(variable)
    )


def secrets_of_this_process() -> dict[str, str]:
    """The variables named by MARIN_SFT_SECRETS that are set in this process.

    They reach steps as task arguments. A runtime_env would appear in the dashboard, and in logs that everyone on a node
    can read; arguments appear in neither.
    """
    names = [name for name in os.environ.get(SECRETS, "").split(",") if name]
    return {name: os.environ[name] for name in (*names, SECRETS) if name in os.environ}


GPU_MEMORY = "XLA_PYTHON_CLIENT_MEM_FRACTION"


def variables_of_workers(kind: StepKind, asked: Collection[str]) -> dict[str, str]:
    """The environment of workers for steps of a kind, with these Ray resources.

    Workers of one environment serve any task that has the same, and keep what they have imported.
    """
    variables = fresh_process_variables(asked) if kind.fresh_process else {}
    if not kind.torch and importlib.util.find_spec("torch"):
        variables["USE_TORCH"] = os.environ.get("USE_TORCH", "0")  # read by transformers and datasets
    return variables


def fresh_process_variables(asked: Collection[str]) -> dict[str, str]:
    """The environment of workers for `fresh_process` steps with these Ray resources.

    On some CPUs a training step takes a fifth to a quarter less time with huge pages, if the system grants them. It is
    faster still if freed memory is kept, since each step would otherwise get it back zeroed. Only the main arena keeps
    large blocks. glibc reads these variables when a process starts, so they cannot be set later.
    """
    malloc = {"hugetlb": 1}
    if {*asked} <= {"CPU", "memory"}:
        malloc |= {"arena_max": 1, "mmap_max": 0, "trim_threshold": 2**40}
    tunables = ":".join(f"glibc.malloc.{name}={value}" for name, value in malloc.items())
    return {
        # Reserves these workers for such steps.
        "MARIN_SFT_FRESH_PROCESS": "1",
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", tunables),
        **({GPU_MEMORY: os.environ.get(GPU_MEMORY, str(GPU_SHARE))} if "GPU" in asked else {}),
    }


def is_loopback(address: str) -> bool:
    """Whether an address (host, host:port or URL) is on loopback: this machine, or a tunnel from it."""
    return urllib.parse.urlsplit(address if "://" in address else f"//{address}").hostname in LOOPBACK


def prepare(address: str | None) -> None:
    """Set the environment variables that Ray needs, unless they are set. address: the Ray to join; None: start one."""
    for name, value in _variables(address).items():
        os.environ.setdefault(name, value)
    if address is None or is_loopback(address):
        for name in ("NO_PROXY", "no_proxy"):  # a web proxy cannot reach this machine's own ports
            os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost")))


def _variables(address: str | None) -> dict[str, str]:
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if address is None or is_loopback(address):
        # Despite its name, it makes Ray on Linux bind all ports to 127.0.0.1 and keep that address. Without it, Ray
        # replaces the address by that of a network card.
        variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if address is not None and has_token():
        variables["RAY_AUTH_MODE"] = "token"  # clusters require it by default, and drivers do not set it
    return variables


def environment_of_head() -> dict[str, str]:
    """For a head on loopback that is to outlive this process. It has no part of this process's Ray or launch."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OF_A_LAUNCH)}
    return {**inherited, **_variables(None), "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "token")}


def has_token() -> bool:
    return "RAY_AUTH_TOKEN" in os.environ or os.path.exists(token_path())


def token_path() -> str:
    return os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")


def read_token() -> str | None:
    """The token that this process would use. For those who are asked for it; never to be printed."""
    if "RAY_AUTH_TOKEN" in os.environ:
        return os.environ["RAY_AUTH_TOKEN"].strip()
    with contextlib.suppress(OSError), open(token_path()) as file:
        return file.read().strip()
    return None


def how_to_see_token() -> str:
    """A command that prints it."""
    if "RAY_AUTH_TOKEN" in os.environ:
        return "echo $RAY_AUTH_TOKEN"
    path, home = token_path(), os.path.expanduser("~/")
    return f"cat {shlex.quote(path) if not path.startswith(home) else '~/' + shlex.quote(path.removeprefix(home))}"


def asks_for_token() -> bool:
    """Whether the dashboard of a Ray that this process starts, or has joined, asks for a token."""
    return os.environ.get("RAY_AUTH_MODE") != "disabled" and has_token()


def how_to_open(dashboard: str) -> str:
    """A command. Ray's page itself only asks for a token, and says not where it is."""
    return f"marin-sft dashboard --address {shlex.quote(dashboard)}"


def keep_token_private() -> None:
    """Called before a Ray starts, since Ray would write its token readable for everyone on the machine."""
    path = token_path()
    if "RAY_AUTH_TOKEN" in os.environ or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    with contextlib.suppress(OSError):  # another user's, or read-only: not ours to change
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
    """For `ray.init`: a private Ray, never one that already runs on the machine."""
    dashboard = importlib.util.find_spec("aiohttp_cors") is not None  # part of ray[default], like the dashboard
    return {**_common(), "address": "local", "include_dashboard": dashboard, "dashboard_host": "127.0.0.1"}


def cluster_options(address: str) -> dict[str, object]:
    """For `ray.init`: the cluster at `address`; ships the directory MARIN_SFT_WORKING_DIR if that is set.

    Raises:
        UserError: the address is that of a dashboard.
    """
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS={address} is a dashboard; expected the address of the cluster itself, e.g. 127.0.0.1:6379. "
            "To run the whole script there as a job: python -m marin_sft.run.ray_run -- python script.py"
        )
    working_dir = os.environ.get("MARIN_SFT_WORKING_DIR")
    shipped = {}
    if working_dir and IN_JOB not in os.environ:  # a job's working directory is already on all nodes
        shipped = {"working_dir": working_dir, "excludes": list(EXCLUDES)}
    return {**_common(), "runtime_env": shipped}


def _common() -> dict[str, object]:
    return {"namespace": "marin_sft", "log_to_driver": False, "logging_level": "ERROR"}
