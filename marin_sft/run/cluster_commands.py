"""The commands of `marin-sft` about a Ray cluster and its jobs."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict

from marin_sft.errors import UserError
from marin_sft.execution import ray_environment
from marin_sft.execution.flags import default_prefix, positive
from marin_sft.execution.terminal import write_log
from marin_sft.run import cluster, cluster_driver, cluster_status, dashboard, doctor, job_client, jobs
from marin_sft.run.context import Context


def up(context: Context) -> None:
    """start a Ray head on this machine, for this user alone"""
    arguments = context.arguments
    head = cluster.read_head()
    if head is None:
        if not context.json:
            context.console.print("Starting Ray on this machine ...")
        options = [f"--num-cpus={arguments.num_cpus}"] if arguments.num_cpus else []
        head = cluster.start_head(options, arguments.port, arguments.dashboard_port)
    else:
        if changed := [name for name in ("port", "dashboard_port", "num_cpus") if getattr(arguments, name) is not None]:
            raise UserError(f"--{changed[0]}: a head is up already, at {head.address}; first: marin-sft cluster down")
    known = head
    context.say(_head_json(known), lambda: context.console.print(_how_to_use(known)))


def _head_json(head: cluster.Head) -> dict[str, object]:
    pids = [process.pid for process in head.alive]
    return {"address": head.address, "dashboard": head.dashboard, "metrics": head.metrics, "pids": pids}


def _how_to_use(head: cluster.Head) -> str:
    port = head.dashboard.rpartition(":")[2]
    return f"""\
Ray is up at {head.address}. To use it:
  export RAY_ADDRESS={head.address}
  python experiments/quickstart.py                    # its steps run there
  python -m marin_sft.run.ray_run -- python SCRIPT    # all of it, as a job
Dashboard: {head.dashboard}
{_access(head.dashboard)}
  from another machine: ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}
Metrics, for Prometheus: {head.metrics}
To end it: marin-sft cluster down"""


def _access(url: str) -> str:
    if not ray_environment.asks_for_token():
        return "  it asks for no token, since RAY_AUTH_MODE=disabled"
    return f"""\
  to open it: {ray_environment.how_to_open(url)}
  its token: {ray_environment.how_to_see_token()}"""


def down(context: Context) -> None:
    """end what `up` started, and nothing else"""
    head = cluster.read_head()
    ended = cluster.stop_head(head) if head else 0
    text = f"Ray at {head.address} has ended: {ended} processes" if head else "no head of `marin-sft cluster up` is up"
    context.say({"address": head and head.address, "ended": ended}, lambda: context.console.print(text))


def status(context: Context) -> None:
    """list nodes, what is reserved of them, and jobs that have not ended"""
    address = cluster_driver.address_of_cluster(context.arguments.address)
    with cluster_driver.connected(address) as connection:
        nodes = cluster_status.read_nodes(connection)
        url = connection.dashboard_url
        found = jobs.read_jobs(job_client.client_of(url)) if url else []
    running = [job for job in found if not job.ended]

    def show() -> None:
        context.console.print(f"Ray at {address}, dashboard {url or 'none'}")
        cluster_status.print_nodes(context.console, nodes)
        jobs.print_jobs(context.console, running, address)

    value = {"address": address, "dashboard": url, "nodes": [asdict(node) for node in nodes]}
    context.say({**value, "jobs": [asdict(job) for job in running]}, show)


def examine(context: Context) -> int:
    """check nodes, versions, credentials, the prefix, clocks, disks and devices"""
    address = cluster_driver.address_of_cluster(context.arguments.address)
    found = []
    with cluster_driver.connected(address) as connection:
        for finding in doctor.examine(connection, _prefix(context.arguments)):
            found.append(finding)
            if not context.json:
                doctor.print_finding(context.console, finding)
    context.say([{**asdict(finding), "ok": finding.ok} for finding in found], lambda: None)
    return int(not all(finding.ok for finding in found))


def _prefix(arguments: argparse.Namespace) -> str | None:
    """None: none is given, and experiments here have not written to the default one."""
    if arguments.prefix:
        return str(arguments.prefix)
    given = {"MARIN_SFT_PREFIX", "MARIN_PREFIX"} & os.environ.keys()
    return default_prefix() if given or os.path.isdir("store") else None


CLUSTER_COMMANDS: dict[str, Callable[[Context], int | None]] = {
    "up": up,
    "down": down,
    "status": status,
    "doctor": examine,
}


def open_dashboard(context: Context) -> None:
    """See `command.dashboard`."""
    client = dashboard.dashboard_client(context.arguments.address)
    url, page = client.get_address(), dashboard.find_page(client, context.arguments.job)
    token = dashboard.needed_token(client)
    if token is None:
        context.say({"page": page}, lambda: context.console.print(f"Open {page}, which asks for no token"))
        return
    with dashboard.doorkeeper(token, page, context.arguments.port) as door, door.serving():
        ways = dashboard.ways_in(url, page, door.link)
        context.say({"link": door.link, "page": page}, lambda: print("\n".join(ways)))
        sys.stdout.flush()
        door.opened.wait()


def list_jobs(context: Context) -> None:
    """See `command.jobs`."""
    client = job_client.connect(context.arguments.address)
    found = jobs.read_jobs(client)[: context.arguments.limit]
    context.say([asdict(job) for job in found], lambda: jobs.print_jobs(context.console, found, client.get_address()))


def stop_job(context: Context) -> int:
    """See `command.stop`."""
    client = job_client.connect(context.arguments.address)
    job = jobs.find_job(client, context.arguments.job)
    for text in jobs.stop_job(client, job):
        if not context.json:
            context.console.print(text)
    state = job_client.job_info(client, str(job.submission_id)).status
    context.say({"job": jobs.name_of(job), "state": str(state.value)}, lambda: None)
    return int(not state.is_terminal())


def log_of_job(context: Context, name: str) -> int | None:
    """Print the log of a job. With --follow, returns the job's exit code."""
    client = job_client.connect(context.arguments.address)
    job = jobs.find_job(client, name)
    if context.arguments.follow and job.submission_id is not None and not context.json:
        return job_client.follow(client, job.submission_id, job.entrypoint)
    text = jobs.read_log(client, job)
    value = {"job": jobs.name_of(job), "log": text}
    context.say(value, lambda: write_log([text.encode(errors="backslashreplace")]))
    return None


WITHOUT_STORE = ("up", "down", "status")


def add_cluster_flags(parsers: dict[str, argparse.ArgumentParser]) -> None:
    parsers["up"].add_argument("--num_cpus", type=positive, metavar="N", help="CPUs of the head (default: all)")
    parsers["up"].add_argument("--port", type=positive, metavar="N", help=f"(default: {cluster.PORT} if free)")
    usual = f"(default: {cluster.DASHBOARD_PORT} if free)"
    parsers["up"].add_argument("--dashboard_port", type=positive, metavar="N", help=usual)
    for name in ("status", "doctor"):
        help_ = "the head, such as 10.0.0.2:6379 (default: $RAY_ADDRESS, else the head that `up` started)"
        parsers[name].add_argument("--address", metavar="A", help=help_)
