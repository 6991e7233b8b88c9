"""`marin-sft jobs`, `logs JOB` and `stop JOB`, with jobs of a real Ray head."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from marin_sft.run.job import make_submission_id
from marin_sft.run.jobs import looks_like_a_job

ENDS = "import os, sys; print('got', os.environ['HF_TOKEN']); sys.exit(3)"


def command(head, *words: str, **options) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "marin_sft.run.command", *words]
    return subprocess.run(line, env=head.env, capture_output=True, text=True, timeout=120, **options)


def submit(head, folder: Path, *words: str) -> None:
    line = [sys.executable, "-m", "marin_sft.run.ray_run", "-e", "HF_TOKEN=abc", *words]
    done = subprocess.run(line, env=head.env, cwd=folder, capture_output=True, text=True, timeout=120)
    assert "Job " in done.stdout, done.stderr


@pytest.fixture(scope="module")
def work(head, tmp_path_factory) -> Path:
    """A job that has ended with exit code 3, and one that waits."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "ends.py").write_text(ENDS)
    (folder / "waits.py").write_text("import time; print('waiting', flush=True); time.sleep(600)")
    submit(head, folder, "--submission_id", "a_job.that ends", "--", "python", "ends.py")
    submit(head, folder, "--no_wait", "--", "python", "waits.py", "two words")
    return folder


def test_jobs_are_listed_with_the_commands_that_were_given(head, work):
    waits, ends = json.loads(command(head, "jobs", "--json").stdout)
    assert (ends["name"], ends["state"], ends["command"]) == ("a_job.that ends", "FAILED", "python ends.py")
    assert waits["command"] == "python waits.py 'two words'" and looks_like_a_job(waits["name"])
    assert ends["seconds"] > 0 and waits["age"] < ends["age"]
    (newest,) = json.loads(command(head, "jobs", "--limit", "1", "--json").stdout)
    assert newest["name"] == waits["name"]
    shown = command(head, "jobs").stdout
    assert "FAILED" in shown and "python ends.py" in shown and f"2 jobs at {head.url}: 1 not ended" in shown


def test_the_log_of_a_job_is_what_it_printed(head, work):
    for words in (["logs", "a_job.that ends"], ["logs", "a_job.that", "--address", head.url]):
        done = command(head, *words, cwd=work)
        assert (done.returncode, done.stdout) == (0, "got abc\n"), done.stderr
    followed = command(head, "logs", "-f", "a_job.that ends", cwd=work)
    assert (followed.returncode, followed.stdout) == (3, "got abc\n"), "its exit code"
    assert json.loads(command(head, "logs", "a_job.that ends", "--json", cwd=work).stdout)["log"] == "got abc\n"
    unknown = command(head, "logs", "nothing", cwd=work)
    assert unknown.returncode == 2 and "no such directory; set --prefix" in unknown.stderr, "neither step nor job"


def test_a_job_is_stopped_by_a_part_of_its_name(head, work):
    done = command(head, "stop", "waits-")
    name = json.loads(command(head, "jobs", "--limit", "1", "--json").stdout)[0]["name"]
    assert done.stdout.splitlines() == [f"stopping job {name}", f"job {name} has ended: STOPPED"], done.stderr
    assert command(head, "stop", name).stdout == f"job {name} has ended before: STOPPED\n"
    unknown = command(head, "stop", "waitz")
    assert unknown.returncode == 2 and "no job 'waitz' at" in unknown.stderr
    followed = command(head, "logs", "-f", name)
    assert followed.returncode == 130 and followed.stdout == "waiting\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_auto_stop_stops_the_job_with_ray_run(head, work, number):
    line = [sys.executable, "-m", "marin_sft.run.ray_run", "--auto-stop", "--", "python", "waits.py"]
    with subprocess.Popen(
        line, env=head.env, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as ours:
        assert ours.stdout is not None
        next(text for text in ours.stdout if text == "waiting\n")
        os.kill(ours.pid, number)
        ours.communicate(timeout=60)
    assert ours.returncode == 130
    name = json.loads(command(head, "jobs", "--limit", "1", "--json").stdout)[0]["name"]
    assert command(head, "logs", "-f", name).returncode == 130, "stopped"


def test_names_of_jobs():
    assert looks_like_a_job(make_submission_id(["python", "experiments/exp808_sft.py"]))
    assert not looks_like_a_job("checkpoints/quickstart_seed0-dcb4b3bfc2") and not looks_like_a_job("sft")


def test_of_a_script_that_connected_ray_knows_neither_its_output_nor_how_it_ended(head, work):
    about = {"logs of steps": "marin-sft logs STEP --prefix here"}
    code = f"import os; from marin_sft.execution.ray_connection import connect; connect({about}); os._exit(3)"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, env={**head.env, "RAY_ADDRESS": head.gcs}, cwd=work, timeout=120)
    assert done.returncode == 3
    jobs = json.loads(command(head, "jobs", "--json").stdout)
    (name,) = [job["name"] for job in jobs if job["state"] == "ENDED"]
    where = rf"its output is where it was started: process \d+ on {os.uname().nodename}; "
    shown = " ".join(command(head, "logs", name, cwd=work).stderr.split())
    assert re.search(where + "marin-sft logs STEP --prefix here shows a step's", shown), shown
