"""`@execute` over `@ray.remote`: scripts as users write them, each with a real Ray."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SCRIPT = """
    import json, os, sys
    from pathlib import Path
    import ray
    from marin_sft.executor.ray import CpuAcceleratorConfig, GpuAcceleratorConfig, execute

    HERE = Path(__file__).parent
    session = ray.init("local", num_cpus=1, include_dashboard=False).address_info["session_dir"]
    variables = {
        "EASYDEL_AUTO": "1",
        "HF_TOKEN": "hf_" + "abcdefghij" * 3,
        "WANDB_API_KEY": "",
        "HF_HOME": "/dev/shm/huggingface",
    }
    config = GpuAcceleratorConfig(2, execution_env={"env_vars": variables, "pip": []}, gpu_model="H100", worker_count=4)

    def body(config):
        Path(config["out"], "note.txt").write_text(json.dumps({name: os.environ.get(name) for name in variables}))

    @execute(config)
    @ray.remote(num_gpus=1)
    def main(word, *, times):
        import jax
        import marin_sft
        from marin_sft.executor.ray import surrounding_resources

        step = marin_sft.ExecutorStep("noted", body, {"out": marin_sft.this_output_path()})
        run = marin_sft.executor_main([step])
        return {
            "word": word * times,
            "backend": jax.default_backend(),
            "assigned": ray.get_runtime_context().get_assigned_resources(),
            "surrounding": repr(surrounding_resources()),
            "here": [os.getcwd(), *sys.argv[1:]],
            "in_main": {name: os.environ.get(name) for name in variables},
            "note": Path(run.output_path(step, "note.txt")).read_text(),
        }

    def helper():
        raise KeyError("on purpose")

    @execute(CpuAcceleratorConfig())
    def fails():
        helper()

    @execute(CpuAcceleratorConfig(runtime_name="named"))
    def leaves():
        sys.exit(3)

    @execute(CpuAcceleratorConfig())
    def mistaken():
        CpuAcceleratorConfig("four")  # what nobody catches ends the script with this line

    if __name__ == "__main__":
        told = main("ha", times=ray.put(2))
        try:
            fails()
        except KeyError as error:
            told["error"] = [str(error), *error.__notes__]
        try:
            leaves()
        except SystemExit as end:
            told["code"] = end.code
        try:
            mistaken()
        except ValueError as error:
            told["mistake"] = [type(error).__name__, *error.__notes__]
        told["up"], told["session"] = ray.get(ray.remote(lambda: True).remote()), session
        (HERE / "told.json").write_text(json.dumps(told))
"""


def launch(tmp_path, script, *flags):
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    env = {**os.environ, "RAY_DEDUP_LOGS": "0", "MARIN_SFT_PREFIX": str(tmp_path / "store")}
    command = [sys.executable, "script.py", *flags]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("execute")
    done = launch(tmp_path, SCRIPT, "--max_concurrent", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    return {**json.loads((tmp_path / "told.json").read_text()), "shown": done.stdout, "root": tmp_path}


def test_main_runs_once_with_its_arguments_and_returns_its_result(told):
    assert told["word"] == "haha" and told["up"] is True
    assert told["here"] == [str(told["root"]), "--max_concurrent", "1"]
    assert told["shown"].count("Plan: 1 step") == 1


def test_main_holds_no_accelerator_and_its_trainings_get_it(told):
    assert told["backend"] == "cpu" and told["assigned"] == {}
    assert told["surrounding"].startswith("GpuConfig(cpus=1, ")
    assert told["surrounding"].endswith("gpu_count=2, accelerator_type='H100', hosts=1)")
    without = "without effect: GpuAcceleratorConfig(worker_count), @ray.remote(num_gpus)"
    assert f"main runs once, without accelerator; {without}" in told["shown"]
    assert "HF_HOME" in told["surrounding"] and "hf_abc" not in told["surrounding"]


def test_variables_are_set_in_main_and_in_its_steps(told):
    expected = {"EASYDEL_AUTO": "1", "HF_TOKEN": "hf_" + "abcdefghij" * 3, "HF_HOME": "/dev/shm/huggingface"}
    for found in (told["in_main"], json.loads(told["note"])):
        assert found == {**expected, "WANDB_API_KEY": os.environ.get("WANDB_API_KEY")}


def test_secrets_are_in_no_record_and_in_none_of_ray_s_files(told):
    wrote = {told["root"] / "script.py", told["root"] / "told.json"} | set(
        told["root"].glob("store/noted-*/1/note.txt")
    )
    files = [path for root in (told["root"], Path(told["session"])) for path in root.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if path not in wrote and b"hf_abcdefghij" in path.read_bytes()]


def test_a_failing_main_raises_in_the_script_and_says_where(told):
    message, note = told["error"]
    script = told["root"] / "script.py"
    assert message == "'on purpose'" and note.startswith("On Ray:\n")
    assert f'File "{script}", line 44, in fails\n    helper()' in note and "marin_sft" not in note
    assert told["code"] == 3


def test_a_mistake_in_main_is_told_with_main_s_own_line(told):
    """Which is what the script prints, instead of a traceback, when nobody catches it: see `tests/test_errors.py`."""
    line = 'CpuAcceleratorConfig("four")  # what nobody catches ends the script with this line'
    assert told["mistake"] == ["ConfigError", f"  at {told['root']}/script.py:52: {line}"]


def test_without_a_ray_one_starts_and_ends_and_a_failure_exits_with_1(tmp_path):
    script = """
    from marin_sft.executor.ray import CpuAcceleratorConfig, execute

    @execute(CpuAcceleratorConfig())
    def main():
        print("main is here")
        raise ValueError("on purpose")

    main()
    """
    done = launch(tmp_path, script)
    assert done.returncode == 1 and "main is here" in done.stdout, done.stdout + done.stderr
    assert "ValueError: on purpose\nOn Ray:\n" in done.stderr
    assert f'File "{tmp_path}/script.py", line 7, in main' in done.stderr


def test_ctrl_c_stops_main_and_its_steps(tmp_path):
    os.mkfifo(tmp_path / "started")
    script = """
    import os, threading, ray
    from marin_sft import ExecutorStep, executor_main, this_output_path
    from marin_sft.executor.ray import CpuAcceleratorConfig, execute

    def slow(config):
        with open("started", "w") as pipe:
            print(os.getpid(), file=pipe)
        threading.Event().wait()

    @execute(CpuAcceleratorConfig())
    @ray.remote
    def main():
        executor_main([ExecutorStep("slow", slow, {"out": this_output_path()})])

    ray.init("local", num_cpus=1, include_dashboard=False)
    try:
        main()
    except KeyboardInterrupt as interrupt:
        assert interrupt.__suppress_context__, "nobody needs Ray's frames"
        print("interrupted", ray.get(ray.remote(lambda: "and up").remote()))
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    env = {**os.environ, "MARIN_SFT_PREFIX": str(tmp_path / "store")}
    command = [sys.executable, "script.py"]
    driver = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with open(tmp_path / "started") as pipe:
        worker = int(pipe.readline())
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=60)
    assert "interrupted and up" in out and "Finished steps are kept; the same command goes on" in out, out
    assert not os.path.exists(f"/proc/{worker}")
    (beat,) = tmp_path.glob("store/slow-*/claims/000001.beat")
    assert '"released": true' in beat.read_text()
