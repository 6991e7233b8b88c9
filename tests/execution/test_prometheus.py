"""A real Prometheus, configured by `infra/prometheus.yml`, that scrapes the head of a Ray cluster while steps run.

`make prometheus` runs it. It takes two minutes: Ray reports and Prometheus looks every 10 seconds, as they usually do.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.torture

INFRA = Path(__file__).parents[2] / "infra"
WAYS = ("returns", "killed")

SCRIPT = """
    import os, signal
    from pathlib import Path
    from marin_sft import ExecutorStep, earlier_attempts, executor_main, progress, step_fn, this_output_path

    HERE = Path(__file__).parent

    @step_fn(kind="reports", fresh_process=True)
    def reports(config):
        if config["earlier"]:
            return
        progress.aside({"tokens": 4096, "lr": 1e-4, "grad_norm": 2.0, "validation/loss": 1.75})
        progress.report(3, 10, "steps", loss=1.5, tokens_per_second=5000.0, mfu=0.5)
        open(HERE / config["how"]).close()  # a named pipe
        if config["how"] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)

    def step(how):
        config = {"how": how, "out": this_output_path(), "earlier": earlier_attempts()}
        return ExecutorStep(f"ways/{how}", reports, config)

    executor_main([step("returns"), step("killed")], argv=["--prefix", str(HERE / "store")])
"""


def free_ports(number):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def process(command, log, **options):
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file, **options) as started:
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(timeout=30)
            finally:
                started.kill()


def until(look, seconds):
    """What `look` returns as soon as it is true. An OSError counts as not yet: a server that is about to start."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if found := look():
                return found
        assert time.monotonic() < deadline, look
        time.sleep(0.5)


class Prometheus:
    def __init__(self, url):
        self.url = url

    def ask(self, query):
        """The series of an instant query: the value by its labels."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            series = json.load(answer)["data"]["result"]
        return {frozenset(one["metric"].items()): float(one["value"][1]) for one in series}

    def by_step(self, query):
        return {dict(labels)["step"]: value for labels, value in self.ask(query).items()}


@pytest.fixture
def head(tmp_path):
    """The environment of a driver that uses a Ray head, and the folder where the head keeps its files."""
    port, dashboard, metrics = free_ports(3)
    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    env = {
        **os.environ,
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--metrics-export-port={metrics}"]
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a short path, for Ray's sockets
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=4"]
        command += ["--node-ip-address=127.0.0.1", f"--temp-dir={folder}", *ports]
        with process(command, tmp_path / "head.log", env=env):
            targets = Path(folder, "prom_metrics_service_discovery.json")
            until(lambda: targets.exists() and f":{metrics}" in targets.read_text(), 120)
            yield {**env, "RAY_ADDRESS": f"127.0.0.1:{port}"}, folder


@pytest.fixture
def prometheus(tmp_path, head):
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no Prometheus on this machine; `make prometheus` gets it on Debian")
    (port,) = free_ports(1)
    config = (INFRA / "prometheus.yml").read_text()
    assert "[/tmp/ray/prom_" in config, "where a head without --temp-dir writes its addresses"
    (tmp_path / "prometheus.yml").write_text(config.replace("/tmp/ray/", f"{head[1]}/"))
    command = [program, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb"]
    command.append(f"--web.listen-address=127.0.0.1:{port}")
    with process(command, tmp_path / "prometheus.log"):
        found = Prometheus(f"http://127.0.0.1:{port}")
        until(lambda: found.ask("up"), 60)
        yield found


def test_steps_are_shown_as_long_as_they_run(tmp_path, prometheus, head):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    for way in WAYS:
        os.mkfifo(tmp_path / way)
    both = {f"ways/{way}" for way in WAYS}
    with process([sys.executable, "script.py"], tmp_path / "launch.log", cwd=tmp_path, env=head[0]) as launch:
        until(lambda: prometheus.by_step("ray_marin_sft_loss").keys() == both, 120)
        shown = {name: prometheus.ask(f'ray_marin_sft_{name}{{step="ways/returns", attempt="1"}}') for name in VALUES}
        assert {name: list(series.values()) for name, series in shown.items()} == VALUES
        assert all(dict(labels)["unit"] == "steps" for name in ("step", "steps") for labels in shown[name])
        for query in dashboard_queries():
            assert bool(prometheus.ask(query)) == ("gpu" not in query and "gram" not in query), query
        # One report is shown for as long as the step runs, in every scrape: Ray alone would forget it after 20 seconds.
        until(lambda: prometheus.by_step("count_over_time(ray_marin_sft_loss[10m])")["ways/killed"] >= 6, 120)
        assert prometheus.by_step("ray_marin_sft_loss").keys() == both
        for way in WAYS:
            (tmp_path / way).open("w").close()
        ended = time.monotonic()
        until(lambda: "ways/returns" not in prometheus.by_step("ray_marin_sft_loss"), 60)
        print(f"\nthe step that returned is gone after {time.monotonic() - ended:.0f} s")
        until(lambda: not prometheus.ask("ray_marin_sft_loss"), 60)
        print(f"the one that was killed after {time.monotonic() - ended:.0f} s")
        assert launch.wait(timeout=60) == 0, (tmp_path / "launch.log").read_text()


VALUES = {
    "step": [3],
    "steps": [10],
    "loss": [1.5],
    "tokens_per_second": [5000],
    "mfu": [0.5],
    "tokens": [4096],
    "lr": [1e-4],
}


def dashboard_queries():
    dashboard = json.loads((INFRA / "grafana/marin_sft.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    return [query.replace("$step", ".*") for query in queries]
