"""A Ray that the user has started: steps run on it from the driver, a task and an actor, and it goes on afterwards."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from marin_sft.execution.ray_backend import _packages

SCRIPT = """
    import os, sys
    from dataclasses import dataclass
    from pathlib import Path
    import ray
    from marin_sft import CpuConfig, ExecutorStep, executor_main, step_fn, this_output_path

    PREFIX = str(Path(__file__).parent / "store")

    @dataclass(frozen=True)
    class Noted:
        text: str
        out: str = this_output_path()

        def words(self):  # a class of the script with code of its own: it counts by its source
            import only_there

            return [self.text, os.environ["OF_INIT"], ray.get_runtime_context().get_job_id(), only_there.TEXT]

    @step_fn(kind="noted")
    def noted(config):
        print(f"{config.text} is made")
        Path(config.out, "note.txt").write_text(" ".join(config.words()))

    @step_fn(kind="fails")
    def fails(config):
        raise ValueError("on purpose")

    def run(name, fn=noted, *flags, **resources):
        step = ExecutorStep(name, fn, Noted(name), resources=CpuConfig(**resources))
        return executor_main([step], argv=["--prefix", PREFIX, *flags])

    def init(cpus):
        shipped = {"env_vars": {"OF_INIT": "yes"}, "working_dir": str(Path(__file__).parent / "shipped")}
        ray.init("local", num_cpus=cpus, resources={"magic": 1}, runtime_env=shipped)
"""

WAYS = """
    if __name__ == "__main__":
        init(1)
        run("in_driver")
        run("greedy", noted, custom={"magic": 3})

        @ray.remote(num_cpus=1)
        def main(*arguments, **resources):
            return run(*arguments, **resources).failed

        def said(task):
            try:
                return ray.get(task)
            except ray.exceptions.RayTaskError as error:
                return repr(error.cause)

        class Actor:
            def go(self):
                return run("in_actor").failed

        print("task:", said(main.remote("in_task")))
        print("actor:", said(ray.remote(num_cpus=1)(Actor).remote().go.remote()))
        print("failed:", said(main.remote("fails", fails)))
        print("mistake:", said(main.remote("in_task", noted, "--force_rum")))
        said(main.options(resources={"magic": 1}).remote("held", noted, custom={"magic": 1}))
        run("in_task", noted, "--dry_run")
        up = ray.get(ray.remote(lambda: True).remote())
        print("up:", up, Path(sys.argv[0]).name, ray.get_runtime_context().get_job_id())
"""


def launch(tmp_path, *parts):
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "only_there.py").write_text("TEXT = 'shipped'\n")
    script = tmp_path / "script.py"
    script.write_text("".join(map(textwrap.dedent, parts)))
    return [sys.executable, str(script)]


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("there")
    env = {**os.environ, "RAY_DEDUP_LOGS": "0"}
    done = subprocess.run(launch(tmp_path, SCRIPT, WAYS), env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path, done.stdout


def note(tmp_path, name):
    (path,) = tmp_path.glob(f"store/{name}-*/latest/note.txt")
    return path.read_text().split()


def test_steps_run_on_it_and_it_is_still_up_afterwards(ways):
    tmp_path, shown = ways
    (up,) = [line.split() for line in shown.splitlines() if line.startswith("up: ")]
    assert up[:3] == ["up:", "True", "script.py"]
    for name in ("in_driver", "in_task", "in_actor"):
        assert note(tmp_path, name) == [name, "yes", up[3], "shipped"], "in the user's job and runtime_env"


def test_who_waits_holds_no_cpu_that_its_steps_need(ways):
    """On a Ray of one CPU, which the task lends out while it waits, and the actor keeps."""
    assert "\ntask: False\n" in ways[1] and "\nactor: False\n" in ways[1]


def test_what_the_waiting_task_keeps_is_refused_to_its_steps(ways):
    assert "step 'held' requests magic 1, but the Ray task or actor that waits for it holds 1 of the 1" in ways[1]
    assert not list(ways[0].glob("store/held-*/commits"))


def test_a_request_for_more_than_there_is_is_cut_down_and_said(ways):
    assert "greedy: requests magic 3, but this machine has 1 and gives that\n" in ways[1]
    assert note(ways[0], "greedy")[0] == "greedy"


def test_a_task_raises_instead_of_taking_its_worker_down(ways):
    assert "\nfailed: RunFailed('1 step(s) failed')\n" in ways[1]
    assert "\nmistake: UserError(\"unknown argument '--force_rum'; did you mean '--force_run'?" in ways[1]


def test_a_step_is_the_same_in_a_task_as_in_its_script(ways):
    (planned,) = [line.split() for line in ways[1].splitlines() if line.startswith("in_task  SKIP")]
    assert planned[2] == "CACHED"


def test_output_is_shown_once(ways):
    assert [line for line in ways[1].splitlines() if "in_driver is made" in line] == ["in_driver | in_driver is made"]
    assert len([line for line in ways[1].splitlines() if "in_task is made" in line]) == 1


def test_interrupted_it_stops_its_tasks_alone(tmp_path):
    os.mkfifo(tmp_path / "started")
    lines = f"""
    @step_fn(kind="slow")
    def slow(config):
        with open({str(tmp_path / "started")!r}, "w") as pipe:
            print(os.getpid(), file=pipe)
        import threading; threading.Event().wait()

    if __name__ == "__main__":
        init(2)
        try:
            run("slow", slow)
        except SystemExit as ended:
            print("code", ended.code, "up", ray.get(ray.remote(lambda: True).remote()))
    """
    command = launch(tmp_path, SCRIPT, lines)
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with open(tmp_path / "started") as pipe:
        worker = int(pipe.readline())
    driver.send_signal(signal.SIGINT)
    out, err = driver.communicate(timeout=60)
    assert "code 130 up True" in out, out + err
    assert not os.path.exists(f"/proc/{worker}")
    (beat,) = tmp_path.glob("store/slow-*/claims/000001.beat")
    assert '"released": true' in beat.read_text()


def test_packages_of_a_step_join_those_of_the_job():
    assert _packages(["a"], {}) == {"pip": {"packages": ["a"]}}
    assert _packages(["b", "a"], {"pip": {"packages": ["a"], "pip_check": False}}) == {
        "pip": {"packages": ["a", "b"], "pip_check": False}
    }
    assert _packages(["b"], {"uv": ["a"]}) == {"uv": {"packages": ["a", "b"]}}
