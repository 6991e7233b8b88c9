"""Launches on a Ray of their own, as scripts: that is how users run them, and how functions reach workers."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from marin_sft.execution.ray_environment import fresh_process_variables

SCRIPT = """
    import os, sys
    from pathlib import Path
    from marin_sft import CpuConfig, ExecutorStep, GpuConfig, RuntimeEnv
    from marin_sft import earlier_attempts, executor_main, step_fn, this_output_path
    from marin_sft.execution.shards import map_shards

    def note(config, text):
        Path(config["out"], "note.txt").write_text(text)

    @step_fn(kind="plain")
    def plain(config):
        import ray
        print("python says hello")
        os.system("echo a child says hello")
        note(config, f"{os.getpid()} {ray.get_runtime_context().get_task_name()}")

    @step_fn(kind="of_variables")
    def of_variables(config):
        note(config, os.environ["FOR_THIS_STEP"])

    @step_fn(kind="fresh", fresh_process=True)
    def fresh(config):
        held = b"x" * 2**26
        flags = [line for line in open("/proc/self/smaps") if line.startswith("VmFlags")]
        import transformers
        torch = "torch" in sys.modules
        note(config, f"{os.getpid()} {any('hg' in line.split() for line in flags)} {torch}")

    @step_fn(kind="fresh_without_torch", fresh_process=True, torch=False)
    def fresh_without_torch(config):
        fresh(config)

    def square(number):
        return number * number, os.getpid()

    @step_fn(kind="sharded")
    def sharded(config):
        results = map_shards(square, range(6))
        note(config, str([r for r, _ in results]) + str(os.getpid() in {pid for _, pid in results}))

    @step_fn(kind="edits")
    def edits(config):
        Path(config["data"]).write_text("edited while it is read")

    @step_fn(kind="vanish")
    def vanish(config):
        os._exit(7)

    @step_fn(kind="killed")
    def killed(config):
        import signal
        os.kill(os.getpid(), signal.SIGKILL)

    @step_fn(kind="crashed")
    def crashed(config):
        import ctypes
        ctypes.string_at(0)

    @step_fn(kind="interrupts_itself")
    def interrupts_itself(config):
        raise KeyboardInterrupt("of my own")

    @step_fn(kind="leave")
    def leave(config):
        sys.exit("enough")

    def step(name, fn, *inputs, **fields):
        resources = fields.pop("resources", CpuConfig())
        config = {"out": this_output_path(), "inputs": list(inputs), **fields}
        return ExecutorStep(name, fn, config, resources=resources)
"""


def write_script(tmp_path: Path, *lines: str) -> list[str]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT) + "\n".join(lines))
    return [sys.executable, str(script), "--prefix", str(tmp_path / "store")]


def read(tmp_path: Path, name: str, file: str = "note.txt") -> str:
    (path,) = tmp_path.glob(f"store/{name}-*/latest/{file}")
    return path.read_text()


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """One launch of steps that do all kinds of things; looked at by several tests."""
    tmp_path = tmp_path_factory.mktemp("ray")
    (tmp_path / "data.txt").write_text("as planned")
    command = write_script(
        tmp_path,
        "a = step('named/a', plain)",
        f"edited = step('edits', edits, data=Path({str(tmp_path / 'data.txt')!r}))",
        "fresh_steps = [step('fresh0', fresh, a), step('fresh1', fresh_without_torch, a)]",
        "others = [step('sharded', sharded, a), step('vanish', vanish), step('killed', killed), step('leave', leave)]",
        "others += [step('crashed', crashed), step('interrupts_itself', interrupts_itself)]",
        "env = RuntimeEnv(env_vars={'FOR_THIS_STEP': 'yes'})",
        "much = GpuConfig(cpus=10_000, accelerator_type='H100', custom={'magic': 2}, runtime_env=env)",
        "greedy = step('greedy', of_variables, resources=much)",
        "executor_main(steps=[*fresh_steps, *others, step('after_leave', plain, others[3]), edited, greedy])",
    )
    env = {name: value for name, value in os.environ.items() if name != "USE_TORCH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=env)
    return tmp_path, command, done


def test_independent_steps_finish_and_failures_are_told_apart(launch):
    _, _, done = launch
    assert done.returncode == 1, done.stderr
    assert "Ray dashboard: http://127.0.0.1:" in done.stdout
    results = dict(line.split()[:2] for line in done.stdout.split("\nstep ")[-1].splitlines()[1:12])
    assert results == {
        "named/a": "ran",
        "fresh0": "ran",
        "fresh1": "ran",
        "sharded": "ran",
        "vanish": "failed",
        "killed": "failed",
        "crashed": "failed",
        "interrupts_itself": "failed",
        "leave": "failed",
        "after_leave": "blocked",
        "edits": "failed",
    }
    assert "leave failed: SystemExit: enough" in done.stdout
    assert "vanish failed: os._exit(7) in the body" in done.stdout
    for name in ("killed", "crashed"):
        assert f"{name} failed: the worker was lost 4 times: its process died without a word, as by" in done.stdout
    assert "interrupts_itself failed: KeyboardInterrupt: of my own\n" in done.stdout
    assert "python-core-worker" not in done.stdout
    assert "data.txt has changed since the plan was made" in done.stdout


def test_a_crash_of_native_code_leaves_its_stack_in_the_log(launch):
    tmp_path, _, _ = launch
    (log,) = tmp_path.glob("store/crashed-*/4/.log")
    assert "Segmentation fault" in log.read_text() and " in crashed\n" in log.read_text()


def test_what_a_body_raises_is_its_own_failure_unless_a_signal_came(launch):
    tmp_path, _, _ = launch
    ((failure,),) = [list(tmp_path.glob("store/interrupts_itself-*/1/.failure.json"))]
    assert "raise KeyboardInterrupt" in json.loads(failure.read_text())["traceback"]


def test_a_body_is_imported_by_the_worker_alone(tmp_path):
    """Of a config's class in a script, which reaches the worker by value."""
    body = "import os\ndef body(config): open(f'{config.out}/note.txt', 'w').write(str(os.getpid()))\n"
    (tmp_path / "beside_the_script.py").write_text(body)
    command = write_script(
        tmp_path,
        "from dataclasses import dataclass",
        "from marin_sft.execution.step import StepConfig",
        "@dataclass(frozen=True)",
        "class Named(StepConfig, kind='named', body='beside_the_script:body', fresh_process=True):",
        "    out: str = this_output_path()",
        "executor_main(steps=[ExecutorStep('named', config=Named())])",
        "print('here', os.getpid(), 'beside_the_script' in sys.modules)",
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    _, here, imported = done.stdout.splitlines()[-1].split()
    assert imported == "False" and read(tmp_path, "named") != here


def test_a_step_killed_for_its_memory_is_told_apart_and_not_retried(tmp_path):
    """Ray's memory monitor, with a limit of 1.5 GB above what is in use now."""
    command = write_script(
        tmp_path,
        "import time",
        "@step_fn(kind='hoard')",
        "def hoard(config):",
        "    Path(config['log']).open('a').write('begun ')",
        "    held = []",
        "    while True:",
        "        held.append(b'x' * 2**25)",
        "        time.sleep(0.02)  # for the monitor to look",
        f"executor_main(steps=[step('hoard', hoard, log={str(tmp_path / 'bodies')!r})])",
    )
    memory = {name: int(kib.split()[0]) for name, kib in (line.split(":") for line in open("/proc/meminfo"))}
    limit = (memory["MemTotal"] - memory["MemAvailable"] + 1.5 * 2**20) / memory["MemTotal"]
    env = {**os.environ, "RAY_memory_usage_threshold": str(limit), "RAY_memory_monitor_refresh_ms": "50"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=env)
    assert done.returncode == 1, done.stderr
    assert "hoard failed: out of memory: Ray's memory monitor killed the step (the step used " in done.stdout
    assert (tmp_path / "bodies").read_text() == "begun "
    plan = subprocess.run([*command, "--dry_run"], capture_output=True, text=True, timeout=60)
    assert "RETRY attempt 1 failed: out of memory" in plan.stdout


def test_a_task_carries_its_step_s_name(launch):
    assert read(launch[0], "named/a").split()[1] == "named/a"


def test_steps_that_ask_for_it_get_a_process_of_their_own(launch):
    pids = {read(launch[0], name).split()[0] for name in ("named/a", "fresh0", "fresh1")}
    assert len(pids) == 3


def test_a_process_of_its_own_has_its_memory_in_huge_pages(launch):
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this system has no huge pages")
    assert read(launch[0], "fresh0").split()[1] == "True"


def test_only_what_may_need_torch_loads_it(launch):
    """The environment of the tests has torch, and transformers imports it if it can."""
    assert [read(launch[0], f"fresh{i}").split()[2] for i in range(2)] == ["True", "False"]


def test_memory_is_kept_on_cpus_alone_and_as_the_user_says(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert "trim_threshold" in fresh_process_variables({"CPU", "memory"})["GLIBC_TUNABLES"]
    assert fresh_process_variables({"CPU", "GPU"})["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")
    assert fresh_process_variables({"CPU"})["GLIBC_TUNABLES"] == "glibc.malloc.check=3"


def test_map_shards_uses_other_processes_and_keeps_order(launch):
    assert read(launch[0], "sharded") == "[0, 1, 4, 9, 16, 25]False"


def test_a_laptop_runs_what_asks_for_more_than_it_has(launch):
    assert read(launch[0], "greedy") == "yes"
    (notice,) = [line for line in launch[2].stdout.splitlines() if "this machine has no" in line]
    assert notice.startswith("greedy: ") and notice.endswith("accelerator_type:H100, magic; the step runs without it")


def test_output_is_shown_live_once_after_the_step_s_name(launch):
    shown = [line for line in launch[2].stdout.splitlines() if "hello" in line]
    assert [line for line in shown if line.startswith("named/a | ")] == [
        "named/a | python says hello",
        "named/a | a child says hello",
    ]
    assert all(line.count(" | ") == 1 for line in shown) and "pid=" not in launch[2].stdout


def test_the_log_holds_what_python_and_children_write(launch):
    assert read(launch[0], "named/a", ".log").splitlines() == ["python says hello", "a child says hello"]


def test_each_retry_of_a_lost_worker_is_an_attempt(launch):
    (directory,) = launch[0].glob("store/killed-*")
    assert sorted(os.listdir(directory / "claims")) == [f"00000{i}.json" for i in (1, 2, 3, 4)]
    assert json.loads((directory / "4" / ".failure.json").read_text())["error"].startswith("the worker was lost")
    (directory,) = launch[0].glob("store/vanish-*")
    assert os.listdir(directory / "claims") == ["000001.json"], "what the body did itself is not retried"


def test_nothing_to_do_starts_no_ray(launch):
    tmp_path, command, _ = launch
    done = subprocess.run([*command, "--run_only", "fresh"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and "Ray dashboard" not in done.stdout


def test_killed_driver_then_resume(tmp_path):
    """kill -9 in the middle of a step: the next launch goes on from the attempt that was cut off."""
    os.mkfifo(tmp_path / "started")
    command = write_script(
        tmp_path,
        "@step_fn(kind='slow')",
        "def slow(config):",
        "    earlier = [Path(p, 'note.txt').read_text() for p in config['earlier']]",
        "    note(config, f'part of {len(earlier)} earlier')",
        "    if not earlier:",
        f"        open({str(tmp_path / 'started')!r}, 'w').close()",
        "        import threading; threading.Event().wait()",
        "executor_main(steps=[step('slow', slow, step('before', plain), earlier=earlier_attempts())])",
    )
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with open(tmp_path / "started"):  # opens when the body is running
        driver.send_signal(signal.SIGKILL)
    driver.communicate()
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read(tmp_path, "slow") == "part of 1 earlier"
    (claims,) = tmp_path.glob("store/slow-*/claims")
    assert json.loads((claims / "000002.json").read_text())["aim"] == 1
    assert len(list(tmp_path.glob("store/before-*/claims/*.json"))) == 1, "the finished step ran once"


HEAD = """
    import sys
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()
"""


@pytest.fixture
def cluster(tmp_path):
    """The environment of a driver that is to use a Ray cluster which runs already."""
    env = {**os.environ, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    (tmp_path / "token").write_text("0123456789abcdef" * 4)
    command = [sys.executable, "-c", textwrap.dedent(HEAD)]
    head = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert head.stdout is not None
    yield {**env, "RAY_ADDRESS": head.stdout.readline().strip()}
    head.communicate("", timeout=60)


def test_ray_address_is_honoured_and_a_working_directory_shipped(tmp_path, cluster):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "only_here.py").write_text(
        "import ray\n"
        "def body(config):\n"
        "    with open(config + '/note.txt', 'w') as file:\n"
        "        file.write(__file__ + ' ' + ray.get_runtime_context().gcs_address)\n"
    )
    (tmp_path / "work" / "script.py").write_text(
        "from only_here import body\n"
        "from marin_sft import ExecutorStep, executor_main, this_output_path\n"
        "executor_main(steps=[ExecutorStep('s', body, this_output_path())])\n"
    )
    env = {**cluster, "MARIN_SFT_WORKING_DIR": "."}
    command = [sys.executable, "script.py", "--prefix", str(tmp_path / "store")]
    done = subprocess.run(command, cwd=tmp_path / "work", env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    file, address = read(tmp_path, "s").split()
    assert "_ray_pkg_" in file and address == cluster["RAY_ADDRESS"]
