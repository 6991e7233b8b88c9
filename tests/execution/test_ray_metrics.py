"""What Ray shows of steps: gauges as long as they run, names, failures. With a real Prometheus: test_prometheus."""

import json
import os
import re
import subprocess
import sys
import textwrap
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from marin_sft.execution.ray_metrics import gauge_values
from marin_sft.progress import Progress

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "infra/grafana/marin_sft.json").read_text())
WAYS = ("returns", "fails", "killed", "interrupted")

# Each step reports, waits until the test has looked, and ends in its own way. If it was lost, its next attempt returns.
SCRIPT = """
    import json, os, signal, sys, time
    from pathlib import Path
    from marin_sft.execution import ray_environment
    ray_environment.prepare(None)  # before ray is imported
    import ray
    from ray.util.state import list_tasks
    from marin_sft import CpuConfig, ExecutorStep, earlier_attempts, executor_main, progress, step_fn, this_output_path
    from marin_sft.execution.shards import map_shards

    HERE = Path(__file__).parent

    def shard(number):
        return Path("/proc/self/cmdline").read_text().strip("\\0")

    def deep(frames):
        if not frames:
            raise ValueError("first line\\nsecond line")
        deeper(frames)

    def deeper(frames):
        deep(frames - 1)

    def run(config):
        how, out = config["how"], Path(config["out"])
        if config["earlier"]:
            return
        if how == "returns":
            (out / "titles.json").write_text(json.dumps([shard(0), *map_shards(shard, range(2))]))
        progress.report(2, 10, "rows", dropped=5)
        progress.aside({"tokens": 4096, "lr": 0.001, "grad_norm": 2.0, "validation/loss": 1.75})
        progress.report(3, 10, "steps", loss=1.5, tokens_per_second=5000, mfu=0.5, **{"eval/loss": 2.5, "odd": "word"})
        open(HERE / how).close()  # a named pipe
        if how == "fails":
            deep(20)
        if how in ("killed", "interrupted"):
            os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGTERM)

    @step_fn(kind="kept")
    def kept(config):
        run(config)

    @step_fn(kind="fresh", fresh_process=True)
    def fresh(config):
        run(config)

    def step(how):
        config = {"how": how, "out": this_output_path(), "earlier": earlier_attempts()}
        return ExecutorStep(f"ways/{how}", kept if how == "returns" else fresh, config, resources=CpuConfig(cpus=1))

    # As a private Ray, but all steps run at once. Workers hand on their gauges each second; the node keeps them longer.
    options = {"num_cpus": 8, "_system_config": {"metrics_report_interval_ms": 1000}}
    dashboard = ray.init(**ray_environment.local_options(), **options).dashboard_url
    print(json.dumps(ray.nodes()[0]["MetricsExportPort"]), flush=True)
    try:
        executor_main([step(how) for how in json.loads(sys.argv[1])], argv=["--prefix", str(HERE / "store")])
    except SystemExit:
        pass
    for _ in range(300):  # Ray hears of the end of a task within a second or so
        tasks = list_tasks(f"http://{dashboard}", detail=True)
        if all(task.state in ("FINISHED", "FAILED") for task in tasks if task.name in ("ways/returns", "ways/fails")):
            break
        time.sleep(0.1)
    print(json.dumps([[task.name, task.state, task.attempt_number, task.error_message] for task in tasks]), flush=True)
    sys.stdin.read()
"""


def scrape(port):
    """The value of each gauge of a step, by the step, its attempt, the gauge and the unit; the names of all metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = [sample for family in families for sample in family.samples]
    ours = {}
    for sample in samples:
        if sample.name.startswith("ray_marin_sft_"):
            labels = [sample.labels.get(label, "") for label in ("step", "attempt", "unit")]
            ours[labels[0], labels[1], sample.name.removeprefix("ray_marin_sft_"), labels[2]] = sample.value
    return ours, {sample.name for sample in samples}


def scrape_until(port, enough):
    deadline = time.monotonic() + 120
    while True:
        ours, names = scrape(port)
        if enough(ours):
            return ours, names
        assert time.monotonic() < deadline, ours
        time.sleep(0.1)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """One run of all steps: the gauges and all metrics while they run, the gauges afterwards, Ray's list of tasks."""
    tmp_path = tmp_path_factory.mktemp("metrics")
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    for way in WAYS:
        os.mkfifo(tmp_path / way)
    command = [sys.executable, "script.py", json.dumps(WAYS)]
    env = {**os.environ, "RAY_metrics_report_interval_ms": "60000"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as script:
        try:
            port = json.loads(script.stdout.readline())
            running, names = scrape_until(port, lambda ours: len(ours) >= 10 * len(WAYS))
            for way in WAYS:
                (tmp_path / way).open("w").close()
            ended, _ = scrape_until(port, lambda ours: {step for step, *_ in ours} <= {"ways/killed"})
            tasks = next(json.loads(line) for line in script.stdout if line.startswith("[["))
            script.communicate("", timeout=60)
        finally:
            script.kill()
    return SimpleNamespace(path=tmp_path, running=running, names=names, ended=ended, tasks=tasks)


def test_the_newest_report_of_a_running_step_is_shown(seen):
    """With a name that Prometheus takes for each figure; without those of an earlier report, and what is no number."""
    aside = {"tokens": 4096, "lr": 0.001, "grad_norm": 2.0, "validation_loss": 1.75}
    figures = {"loss": 1.5, "tokens_per_second": 5000, "mfu": 0.5, "eval_loss": 2.5, **aside}
    for way in WAYS:
        of_step = {key[2:]: value for key, value in seen.running.items() if key[:2] == (f"ways/{way}", "1")}
        assert of_step == {
            ("step", "steps"): 3,
            ("steps", "steps"): 10,
            **{(name, ""): value for name, value in figures.items()},
        }


def test_nothing_is_shown_of_an_attempt_that_has_ended(seen):
    """However it ended, unless it was killed: then the node itself forgets the gauges, here after two minutes."""
    assert seen.ended and {key[:2] for key in seen.ended} == {("ways/killed", "1")}


def test_a_failed_step_is_a_failed_task_with_its_error(seen):
    states = {name: set() for name, *_ in seen.tasks}
    for name, state, attempt, _ in seen.tasks:
        states[name].add(state)
        assert attempt == 0, "Ray itself retries nothing"
    assert states["ways/returns"] == {"FINISHED"} and states["ways/fails"] == {"FAILED"}
    (error,) = [error for name, *_, error in seen.tasks if name == "ways/fails"]
    assert "StepFailed: ways/fails: ValueError: first line\nsecond line\n" in error
    assert f"at {seen.path}/script.py:" in error, "where it was raised"


def test_processes_and_tasks_of_shards_carry_the_step_s_name(seen):
    (file,) = seen.path.glob("store/ways/returns-*/1/titles.json")
    assert json.loads(file.read_text()) == ["ray::ways/returns", *["ray::ways/returns shard"] * 2]
    assert [name for name, *_ in seen.tasks].count("ways/returns shard") == 2


def test_the_dashboard_s_queries_name_metrics_that_ray_shows(seen):
    """Those of GPUs are shown by machines with one alone, so Ray's own table counts for them."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    of_gpus = {f"ray_{name}" for name in METRICS_GAUGES if re.match("node_(gpu|gram)", name)}
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    queries += [
        variable["query"]["query"] for variable in DASHBOARD["templating"]["list"] if variable["name"] == "step"
    ]
    named = {name for query in queries for name in re.findall(r"ray_\w+", query)}
    assert named <= seen.names | of_gpus
    assert {f"ray_marin_sft_{name}" for name in ("step", "steps", "loss", "tokens_per_second", "mfu")} < named


def test_what_a_step_may_report():
    labels = (("step", "a"),)
    values = gauge_values(Progress(1, None, "", {"a b/ü": 1, "big": 10**400, "none": None, "list": [1]}), labels)
    assert values == {("marin_sft_a_b__", labels): 1.0, ("marin_sft_step", (*labels, ("unit", ""))): 1.0}
    aside = {"tokens": 4096, "loss": 3.0, "step": 7, "mfu": None}
    values = gauge_values(Progress(1, None, "", {"loss": 2.0}, aside=aside), labels)
    assert {name: value for (name, _), value in values.items()} == {
        "marin_sft_tokens": 4096,
        "marin_sft_loss": 2,
        "marin_sft_step": 1,
    }
