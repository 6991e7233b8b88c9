"""Ray's service for jobs: connecting to it, submitting a job, following it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import socket
import sys
import time
from typing import TYPE_CHECKING

from marin_sft.errors import UserError
from marin_sft.execution.ray_connection import starts_ray
from marin_sft.execution.ray_environment import NAME_OF_JOB, is_loopback, prepare
from marin_sft.execution.terminal import complain, visible, write_log
from marin_sft.run import job_secrets
from marin_sft.run.cluster import DASHBOARD_PORT, NO_CLUSTER, read_head
from marin_sft.run.job import Job

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_SETTING_UP = re.compile(r"(?m)^[\d-]+ [\d:,]+\tINFO job_manager\.py:\d+ -- Runtime env is setting up\.\n")
_POLL = 0.5
_QUIET = 5.0  # seconds after which to explain why a job has not started
_PATIENCE = 60.0  # seconds without an answer after which the cluster is considered gone


def connect(address: str | None) -> JobSubmissionClient:
    """The client of a cluster that takes jobs: the one at `address`, else the one that is known.

    Raises:
        UserError: no address is known, nothing answers there, it denies access, or it is a launch's own Ray.
    """
    named = address or known_address()
    address = named or usual_dashboard()
    if address is None:
        raise UserError(NO_CLUSTER)
    client = client_of(address)
    if owner := _owner(client):
        if not named:
            raise UserError(NO_CLUSTER)
        raise UserError(
            f"the Ray at {address} is that of a running script, process {owner}, and ends with it. For jobs, start a "
            "cluster on this machine with marin-sft cluster up, or set --address or RAY_ADDRESS to that of one"
        )
    return client


def client_of(address: str) -> JobSubmissionClient:
    """A client for a dashboard (URL or host:port), a head (host:port) or a host, whoever started that Ray.

    Raises:
        UserError: nothing answers there, or it denies access.
    """
    os.environ.pop("RAY_API_SERVER_ADDRESS", None)
    prepare(address)
    candidates = [address]
    if "://" not in address and address != "auto":
        host, _, port = address.partition(":")
        _check_open(host, int(port) if port.isdigit() else DASHBOARD_PORT)
        candidates = [f"http://{host}:{port or DASHBOARD_PORT}", *([address] if port else [])]
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
        "marin-sft cluster up"
    )


def _owner(client: JobSubmissionClient) -> str | None:
    """The pid and command of the script that started this Ray with `ray.init()`, as a launch does."""
    jobs = client.list_jobs() if head_is_here(client) else []
    running = [job for job in jobs if job.driver_info is not None and not job.status.is_terminal()]
    return next((f"{j.driver_info.pid} ({j.entrypoint})" for j in running if starts_ray(int(j.driver_info.pid))), None)


def known_address() -> str | None:
    """That of the environment, or of the head that `marin-sft cluster up` started."""
    named = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    head = None if named else read_head()
    return head.dashboard if head else named


def usual_dashboard() -> str | None:
    """Where `ray start --head` has it, and the tunnel of `ray dashboard` ends, if anything listens there."""
    try:
        socket.create_connection(("127.0.0.1", DASHBOARD_PORT), timeout=1).close()
    except OSError:
        return None
    return f"http://127.0.0.1:{DASHBOARD_PORT}"


def _check_open(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=10).close()
    except OSError as error:
        raise UserError(f"no Ray answers at {host}:{port}: {error}; check --address") from None


def head_is_here(client: JobSubmissionClient) -> bool:
    """Whether the head is on this machine. An address on loopback may be the near end of a tunnel."""
    if not is_loopback(client.get_address()):
        return False
    answer = client._do_request("GET", "/nodes?view=hostnamelist")
    names = answer.json().get("data", {}).get("hostNameList") if answer.status_code == 200 else None
    return not names or socket.gethostname() in names


def submit(client: JobSubmissionClient, job: Job) -> None:
    """Raises:
    UserError: the cluster refused the job; its secrets are deleted.
    """
    try:
        if job.secrets:
            job_secrets.put(client, job.secrets_key, job.secrets)
        client.submit_job(
            entrypoint=job.entrypoint,
            runtime_env=dict(job.runtime_env),
            submission_id=job.submission_id,
            metadata={NAME_OF_JOB: job.name, **({job_secrets.METADATA: job.secrets_key} if job.secrets else {})},
            **job.reserved,
        )
    except BaseException as error:
        forget_secrets(client, job.secrets_key)
        if isinstance(error, RuntimeError | ValueError | OSError):
            # The response is a traceback of the server; its last line has the reason.
            lines = [line for line in str(error).replace("\\n", "\n").splitlines() if re.search(r"\w", line)]
            raise UserError(f"the cluster did not take the job: {lines[-1]}") from None
        raise


def forget_secrets(client: JobSubmissionClient, key: str) -> None:
    """Of a job that did not start, or has ended."""
    if key:
        with contextlib.suppress(OSError, RuntimeError):
            job_secrets.forget(client, key)


def follow(client: JobSubmissionClient, submission_id: str, entrypoint: str = "") -> int:
    """Print the job's output until it ends. Returns its exit code: 128 + n if signal n killed it, 130 if stopped."""
    _await_start(client, submission_id)
    shown = 0
    while True:
        shown = asyncio.run(_print_log(client, submission_id, shown, entrypoint))
        info = job_info(client, submission_id)
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


def without_rays_lines(log: str, submission_id: str, entrypoint: str) -> str:
    """A job's log without the lines that Ray adds before the job's own."""
    return _SETTING_UP.sub("", log).replace(f"Running entrypoint for job {submission_id}: {entrypoint}\n", "")


def job_info(client: JobSubmissionClient, submission_id: str) -> JobDetails:
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
    while (info := job_info(client, submission_id)).status == "PENDING":
        if time.monotonic() > tell:
            tell = math.inf
            print(visible(info.message), file=sys.stderr, flush=True)
        time.sleep(_POLL)


async def _print_log(client: JobSubmissionClient, submission_id: str, shown: int, entrypoint: str) -> int:
    """Follow the log from character `shown` on. The log is sent from its start. Returns how far it was shown."""
    position = 0
    try:
        async for text in client.tail_job_logs(submission_id):
            new = without_rays_lines(text[max(0, shown - position) :], submission_id, entrypoint)
            write_log([new.encode(errors="backslashreplace")])
            position += len(text)
            shown = max(shown, position)
    except (RuntimeError, OSError) as error:
        print(visible(f"the connection to the log broke, retrying: {error}"), file=sys.stderr)
    return shown
