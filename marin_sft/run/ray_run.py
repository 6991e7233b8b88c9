"""Run a command as a job on a Ray cluster, and follow it.

    python marin_sft/run/ray_run.py --env_vars HF_TOKEN -- python experiments/exp808_sft_mixture.py --dry_run

Ships the working directory. The words after `--` are the command, unchanged. The job continues when this process ends.
Exit code: that of the job; 2: nothing was submitted; 130: detached or stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from marin_sft.errors import UserError
from marin_sft.execution.ray_environment import is_loopback, prepare
from marin_sft.execution.terminal import complain, visible, write_log
from marin_sft.run.job import Job, check_script, make_job, parse_variables

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

DASHBOARD = "http://127.0.0.1:8265"
_SECOND_CTRL_C = 2.0  # seconds during which another Ctrl-C stops the job
_POLL = 0.5
_QUIET = 5.0  # seconds after which to explain why a job has not started
_PATIENCE = 60.0  # seconds without an answer after which the cluster is considered gone


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own flags, and the command after `--`.

    Raises:
        UserError: no command, or an unknown flag. The message repeats no possible secret.
    """
    if not {"-h", "--help"} & set(argv) and "--" not in argv:
        raise UserError("expected: ray_run [flags] -- python script.py [its flags]; got no --")
    split = argv.index("--") if "--" in argv else len(argv)
    own, command = argv[:split], list(argv[split + 1 :])
    flags, unknown = _parser().parse_known_args(own)
    if unknown:
        names = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        raise UserError(f"unknown {names[0] if names else 'words'} before --; see --help")
    if not command:
        raise UserError("expected a command after --, e.g. python experiments/quickstart.py")
    return flags, command


def _parser() -> _Parser:
    parser = _Parser(prog="ray_run", usage="ray_run [flags] -- command", allow_abbrev=False)
    add = parser.add_argument
    add(
        *("--env_vars", "-e"),
        nargs="+",
        action="append",
        default=[],
        metavar="KEY",
        help="KEY VALUE or KEY=VALUE for the job; a lone KEY copies its value here. Repeatable",
    )
    add("--address", help=f"the cluster's dashboard or head (default: $RAY_ADDRESS, else {DASHBOARD})")
    add("--working_dir", default=".", help="the directory to ship, without what .gitignore excludes (default: .)")
    add("--submission_id", help="the job's name (default: script-user-time-hex)")
    add("--debug", action="store_true", help="show the traceback of an error here, too")
    add("--no_wait", action="store_true", help="submit, print the job's name, and exit")
    add("--stop_on_interrupt", action="store_true", help="Ctrl-C here also stops the job")
    add(
        "--visible_env",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY",
        help="of --env_vars, those that users of the cluster may see. Repeatable",
    )
    add("--allow_visible_secrets", action="store_true", help="users of the cluster may see all of --env_vars")
    add(
        "--entrypoint_num_cpus",
        "--entrypoint-num-cpus",
        type=float,
        metavar="N",
        help="CPUs to reserve for the command itself",
    )
    add("--entrypoint_num_gpus", "--entrypoint-num-gpus", type=float, metavar="N")
    add("--entrypoint_memory", "--entrypoint-memory", type=int, metavar="BYTES")
    add("--entrypoint_resources", "--entrypoint-resources", type=json.loads, metavar="JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process of a shell would ignore it
    try:
        flags, command = parse(sys.argv[1:] if argv is None else argv)
        check_script(command, flags.working_dir)
        variables = parse_variables(flags.env_vars)
        visible = _visible(flags, variables)
        client = connect(flags.address)
        job = make_job(
            command,
            variables,
            flags.working_dir,
            here=is_loopback(client.get_address()),
            submission_id=flags.submission_id,
            visible=visible,
            launcher=_launcher(flags),
        )
        submit(client, job, flags)
    except UserError as error:
        return complain(error, 2)
    print(f"Job {job.submission_id}: {client.get_address()}/#/jobs/{job.submission_id}", flush=True)
    if flags.no_wait:
        return 0
    try:
        code = follow(client, job.submission_id, job.entrypoint)
    except KeyboardInterrupt:
        return _detach(client, job, flags.stop_on_interrupt)
    except (OSError, RuntimeError) as error:
        return complain(f"the cluster no longer answers; job {job.submission_id} may still be running: {error}", 1)
    job.forget_secrets()
    return code


def _launcher(flags: argparse.Namespace) -> str:
    """The words to put before the job's command to submit it again, without values of variables."""
    keys = [word for given in flags.env_vars for word in ("--env_vars", given[0].partition("=")[0])]
    address = ["--address", flags.address] if flags.address else []
    visible = ["--visible_env", *flags.visible_env] if flags.visible_env else []
    everything = ["--allow_visible_secrets"] if flags.allow_visible_secrets else []
    return shlex.join(["python", sys.argv[0], *address, *keys, *visible, *everything, "--"])


def _visible(flags: argparse.Namespace, variables: Mapping[str, str]) -> Collection[str]:
    """Raises UserError for a name that is not a variable of the job."""
    if unknown := sorted(set(flags.visible_env) - variables.keys()):
        raise UserError(f"--visible_env {unknown[0]}: expected a variable named in --env_vars")
    return variables if flags.allow_visible_secrets else flags.visible_env


def connect(address: str | None) -> JobSubmissionClient:
    """A JobSubmissionClient for a dashboard (URL or host:port), a head (host:port) or a host.

    Raises:
        UserError: nothing answers there, or it denies access.
    """
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or DASHBOARD
    os.environ.pop("RAY_API_SERVER_ADDRESS", None)
    prepare(address)
    candidates = [address]
    if "://" not in address and address != "auto":
        host, _, port = address.partition(":")
        _check_open(host, int(port) if port.isdigit() else 8265)
        candidates = [f"http://{host}:{port or 8265}", *([address] if port else [])]
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for handler in logging.getLogger("ray").handlers:  # it logs each upload
        handler.setLevel(logging.ERROR)
    problem: Exception | None = None
    for candidate in candidates:
        os.environ["RAY_ADDRESS"] = candidate  # it takes precedence over the client's argument
        try:
            return JobSubmissionClient(candidate)
        except AuthenticationError as error:
            raise UserError(
                f"the cluster at {address} requires a token: set RAY_AUTH_TOKEN to it, or RAY_AUTH_TOKEN_PATH to its "
                f"file. {str(error).splitlines()[0]}"
            ) from None
        except (ConnectionError, RuntimeError, ValueError) as error:
            problem = problem or error
    raise UserError(
        f"no Ray answers at {address} ({problem}): set --address, or start one on this machine with "
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 ray start --head --node-ip-address=127.0.0.1"
    )


def _check_open(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        raise UserError(f"no Ray answers at {host}:{port}: {error}; check --address") from None


def submit(client: JobSubmissionClient, job: Job, flags: argparse.Namespace) -> None:
    """Raises:
    UserError: the cluster refused the job; its secrets are deleted.
    """
    names = ("entrypoint_num_cpus", "entrypoint_num_gpus", "entrypoint_memory", "entrypoint_resources")
    reserved = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    try:
        client.submit_job(
            entrypoint=job.entrypoint,
            runtime_env=dict(job.runtime_env),
            submission_id=job.submission_id,
            **reserved,
        )
    except BaseException as error:
        job.forget_secrets()
        if isinstance(error, RuntimeError | ValueError | ConnectionError):
            # The response is a traceback of the server; its last line has the reason.
            lines = [line for line in str(error).replace("\\n", "\n").splitlines() if re.search(r"\w", line)]
            raise UserError(f"the cluster did not take the job: {lines[-1]}") from None
        raise


def follow(client: JobSubmissionClient, submission_id: str, entrypoint: str = "") -> int:
    """Print the job's output until it ends. Returns its exit code: 128 + n if signal n killed it, 130 if stopped."""
    _await_start(client, submission_id)
    preamble = f"Running entrypoint for job {submission_id}: {entrypoint}\n"  # added to the log by Ray; redundant
    shown = 0
    while True:
        shown = asyncio.run(_print_log(client, submission_id, shown, preamble))
        info = _info(client, submission_id)
        if info.status.is_terminal():
            break
        time.sleep(_POLL)  # the connection broke, or the log ended before the job's status was updated
    code = info.driver_exit_code
    if info.status == "SUCCEEDED":
        return 0
    if info.status == "STOPPED":
        print(f"Job {submission_id} was stopped.", file=sys.stderr)
        return 130
    if code is None:  # the command never ran, or its machine was lost
        return complain(f"job {submission_id}: {info.message}", 1)
    return code if code >= 0 else 128 - code


def _info(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    """Retry until the dashboard answers. It may not do so for a moment if its machine is busy."""
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            return client.get_job_info(submission_id)
        except (OSError, RuntimeError):
            if time.monotonic() > give_up:
                raise
            time.sleep(_POLL)


def _await_start(client: JobSubmissionClient, submission_id: str) -> None:
    tell = time.monotonic() + _QUIET
    while (info := _info(client, submission_id)).status == "PENDING":
        if time.monotonic() > tell:
            tell = math.inf
            print(visible(info.message), file=sys.stderr, flush=True)
        time.sleep(_POLL)


async def _print_log(client: JobSubmissionClient, submission_id: str, shown: int, left_out: str) -> int:
    """Follow the log from character `shown` on. The log is sent from its start. Returns how far it was shown."""
    position = 0
    try:
        async for text in client.tail_job_logs(submission_id):
            write_log([text[max(0, shown - position) :].replace(left_out, "").encode(errors="backslashreplace")])
            position += len(text)
            shown = max(shown, position)
    except (RuntimeError, OSError) as error:
        print(visible(f"the connection to the log broke, retrying: {error}"), file=sys.stderr)
    return shown


def _detach(client: JobSubmissionClient, job: Job, stop: bool) -> int:
    address = shlex.quote(client.get_address())
    name = shlex.quote(job.submission_id)
    if not stop:
        print(
            f"\nThe job continues.\n  follow it: ray job logs --follow --address {address} {name}\n"
            f"  stop it:   ray job stop --address {address} {name}\n"
            f"or press Ctrl-C again within {_SECOND_CTRL_C:g} seconds to stop it.",
            file=sys.stderr,
            flush=True,
        )
        try:
            time.sleep(_SECOND_CTRL_C)
        except KeyboardInterrupt:
            stop = True
    if stop:
        client.stop_job(job.submission_id)
        print(f"\nStopping job {job.submission_id}.", file=sys.stderr)
        job.forget_secrets()
    return 130


if __name__ == "__main__":
    sys.exit(main())
