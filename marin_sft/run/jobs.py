"""The jobs of a Ray cluster: listing, logs and stopping."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from marin_sft.errors import UserError
from marin_sft.execution.ray_environment import LOGS_OF_STEPS, OUTPUT_OF_JOB
from marin_sft.execution.tables import counted, duration_text, print_table
from marin_sft.nearest import nearest_text
from marin_sft.run import job_client, job_secrets
from marin_sft.run.cluster_driver import QUESTION
from marin_sft.run.job import SUBMISSION_ID
from marin_sft.run.status import age_text

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_COLOURS = {"SUCCEEDED": "green", "FAILED": "bold red", "RUNNING": "bold cyan", "PENDING": "yellow"}
_NUMBER = re.compile("[0-9a-f]{4}0000")
_POLL = 0.3
_TO_STOP = 90.0  # seconds; a launch gets 60 to release its claims


@dataclass(frozen=True)
class JobSummary:
    """name: its submission id, or Ray's number of a script that has connected. age, seconds: since it began."""

    name: str
    state: str
    age: float | None
    seconds: float | None
    command: str
    message: str | None

    @property
    def ended(self) -> bool:
        return self.state not in ("RUNNING", "PENDING")


def looks_like_a_job(name: str) -> bool:
    """Whether ray_run would have given this name to a job, or Ray this number to a script that has connected."""
    return (SUBMISSION_ID.fullmatch(name) or _NUMBER.fullmatch(name)) is not None


def read_jobs(client: JobSubmissionClient) -> list[JobSummary]:
    """Newest first, without the questions of `cluster status` and `doctor`."""
    found = sorted(client.list_jobs(), key=lambda job: job.start_time or 0, reverse=True)
    return [_summary(job) for job in found if QUESTION not in (job.metadata or {})]


def _summary(job: JobDetails) -> JobSummary:
    now, began, ended = time.time(), (job.start_time or 0) / 1000, (job.end_time or 0) / 1000
    return JobSummary(
        name=name_of(job),
        state=_state(job),
        age=now - began if began else None,
        seconds=(ended or now) - began if began else None,
        command=_command(job.entrypoint),
        message=job.message if job.status == "FAILED" or job.status == "PENDING" else None,
    )


def _state(job: JobDetails) -> str:
    """Of a script that has connected, Ray only knows that it has gone, and says SUCCEEDED."""
    return "ENDED" if job.submission_id is None and job.status.is_terminal() else str(job.status.value)


def name_of(job: JobDetails) -> str:
    return str(job.submission_id or job.job_id)


def _command(entrypoint: str) -> str:
    """The command as the user gave it, without what ray_run puts before it."""
    try:
        words = shlex.split(entrypoint.removeprefix("exec "))
    except ValueError:
        return entrypoint
    return shlex.join(job_secrets.without_taking(words))


def print_jobs(console: Console, jobs: list[JobSummary], address: str) -> None:
    rows = [
        (Text(job.state, style=_COLOURS.get(job.state, "")), age_text(job.age), _took(job), job.name, job.command)
        for job in jobs
    ]
    if rows:
        print_table(console, ("state", "age", "took", "job", "command"), rows)
    running = sum(not job.ended for job in jobs)
    console.print(Text(f"{counted(len(jobs), 'job')} at {address}: {running} not ended"))


def _took(job: JobSummary) -> str:
    return "" if job.seconds is None else duration_text(max(0.0, job.seconds))


def find_job(client: JobSubmissionClient, name: str) -> JobDetails:
    """The job of this name, or the newest whose name contains it.

    Raises:
        UserError: there is none.
    """
    jobs = sorted(client.list_jobs(), key=lambda job: job.start_time or 0, reverse=True)
    exact = [job for job in jobs if name in (job.submission_id, job.job_id)]
    if found := exact or [job for job in jobs if name in name_of(job)]:
        return found[0]
    known = nearest_text(name, map(name_of, jobs)) if jobs else ""
    raise UserError(f"no job {name!r} at {client.get_address()}{known}")


def read_log(client: JobSubmissionClient, job: JobDetails) -> str:
    """Raises UserError if Ray keeps no log of it."""
    if job.submission_id is None:
        about = job.metadata or {}
        raise UserError(
            f"job {job.job_id} is a script that connected to the cluster: its output is "
            f"{about.get(OUTPUT_OF_JOB, 'where it was started')}; {about.get(LOGS_OF_STEPS, 'marin-sft logs STEP')} "
            "shows a step's"
        )
    return job_client.without_rays_lines(client.get_job_logs(job.submission_id), job.submission_id, job.entrypoint)


def stop_job(client: JobSubmissionClient, job: JobDetails) -> Iterator[str]:
    """Stop it, and tell what happens.

    Raises:
        UserError: it is not one that Ray can stop.
    """
    if job.submission_id is None:
        raise UserError(f"job {job.job_id} is a script that connected to the cluster: stop it where it was started")
    if job.status.is_terminal():
        yield f"job {job.submission_id} has ended before: {job.status.value}"
        return
    client.stop_job(job.submission_id)
    yield f"stopping job {job.submission_id}"
    give_up = time.monotonic() + _TO_STOP
    while not (info := job_client.job_info(client, job.submission_id)).status.is_terminal():
        if time.monotonic() > give_up:
            yield f"job {job.submission_id} has not ended within {_TO_STOP:g} seconds: {info.status.value}"
            return
        time.sleep(_POLL)
    job_client.forget_secrets(client, (job.metadata or {}).get(job_secrets.METADATA, ""))
    yield f"job {job.submission_id} has ended: {info.status.value}"
