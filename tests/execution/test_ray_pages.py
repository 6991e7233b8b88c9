"""What the pages of Ray's dashboard are made of, for a launch that has started Ray: asked for as the pages do."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
from types import SimpleNamespace

import pytest
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT

SCRIPT = """
    import sys
    from pathlib import Path
    from marin_sft import ExecutorStep, executor_main, progress, step_fn, this_output_path

    @step_fn(kind="works", fresh_process=True)
    def works(config):
        print("a word to stdout", flush=True)
        progress.report(3, 10, "steps", loss=1.5, tokens_per_second=5000)
        open(Path(__file__).parent / "go_on").close()  # a named pipe

    @step_fn(kind="fails")
    def fails(config):
        raise ValueError("on purpose")

    config = {"out": this_output_path()}
    executor_main([ExecutorStep("pages/fails", fails, config), ExecutorStep("pages/works", works, config)])
"""


class Pages:
    def __init__(self, url, token):
        self._url, self._token = url, token

    def get(self, path, **query):
        url = f"{self._url}{path}?{urllib.parse.urlencode(query)}"
        asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._token}"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.read().decode()

    def tasks(self):
        found = json.loads(self.get("/api/v0/tasks", detail=1, limit=100))["data"]["result"]["result"]
        return {task["name"]: task for task in found if task["job_id"] == "01000000"}

    def log(self, task, suffix):
        return self.get("/api/v0/logs/file", task_id=task["task_id"], suffix=suffix, lines=-1)

    def until(self, look):
        """What `look` returns as soon as it is true. Ray hears of its tasks and their logs within a second or so, and
        until then may have no answer."""
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(urllib.error.HTTPError):
                if found := look():
                    return found
            assert time.monotonic() < deadline, self.tasks()
            time.sleep(0.1)


@pytest.fixture(scope="module")
def another_ray_has_the_port_of_agents():
    with socket.socket() as its:
        with contextlib.suppress(OSError):  # one has it indeed
            its.bind(("", DEFAULT_DASHBOARD_AGENT_LISTEN_PORT))
            its.listen()
        yield


@pytest.fixture(scope="module")
def launch(tmp_path_factory, another_ray_has_the_port_of_agents):
    """A launch with one step that has failed and one that runs: its pages, process, folder and first lines."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "exp7_pages.py").write_text(textwrap.dedent(SCRIPT))
    os.mkfifo(folder / "go_on")
    (folder / "token").write_text("0123456789abcdef" * 4)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MARIN_"))}
    env["RAY_AUTH_TOKEN_PATH"] = str(folder / "token")
    command = [sys.executable, "exp7_pages.py", "--prefix", "kept here"]
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = ""
            while "failed pages/fails" not in said or "3/10 steps" not in said:
                assert (line := process.stdout.readline()), said
                said += line
            (url,) = re.findall("^Ray dashboard: (.*)", said, re.MULTILINE)
            pages = Pages(url, (folder / "token").read_text())
            yield SimpleNamespace(pages=pages, process=process, folder=folder, said=said, url=url)
            (folder / "go_on").open("w").close()
            said += process.stdout.read()
            assert process.wait(timeout=60) == 1 and pages._token not in said
        finally:
            process.kill()


def test_the_launch_says_how_to_open_its_dashboard(launch):
    assert f"Ray dashboard: {launch.url}\n  to open it: marin-sft dashboard --address {launch.url}\n" in launch.said


def test_the_job_is_named_after_the_experiment_and_says_where_its_output_is(launch):
    (job,) = json.loads(launch.pages.get("/api/jobs/"))
    assert "exp7_pages.py --prefix" in job["entrypoint"]
    prefix = f"'{launch.folder}/kept here'"
    assert job["metadata"] == {
        "job_name": "exp7_pages",
        "output": f"where it was started: process {launch.process.pid} on {os.uname().nodename}",
        "logs of steps": f"marin-sft logs STEP --prefix {prefix}",
    }


def states(tasks):
    return [tasks[name]["state"] for name in sorted(tasks)]


def test_a_failed_step_is_red_and_one_that_goes_on_is_not(launch):
    pages = launch.pages
    tasks = pages.until(lambda: (found := pages.tasks()) and states(found) == ["FAILED", "RUNNING"] and found)
    error = tasks["pages/fails"]["error_message"]
    assert f"pages/fails: ValueError: on purpose\nat {launch.folder}/exp7_pages.py:" in error
    assert pages.until(lambda: "\nValueError: on purpose\n" in pages.log(tasks["pages/fails"], "err"))


def test_the_log_of_a_task_has_what_the_step_printed_and_its_progress(launch):
    """In stderr, which the page of a task shows first."""
    pages = launch.pages
    task = pages.until(lambda: pages.tasks().get("pages/works"))
    shown = pages.until(lambda: "3/10" in (log := pages.log(task, "err")) and log)
    assert "a word to stdout\n" in shown and "3/10 steps  loss 1.5  tokens/s 5,000\n" in shown
