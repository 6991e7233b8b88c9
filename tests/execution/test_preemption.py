"""SIGTERM to a launch lets its steps keep what they have done; losses after something was kept are free."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

SCRIPT = """
    import os, sys, time
    from pathlib import Path
    from marin_sft import CpuConfig, ExecutorStep, earlier_attempts, executor_main, preemption, progress
    from marin_sft import step_fn, this_output_path
    from marin_sft.errors import Preempted

    HERE = Path(__file__).parent

    @step_fn(kind="counts")
    def counts(config):
        kept = max((int(Path(path, "kept").read_text()) for path in config["earlier"]), default=0)
        with preemption.told_by_sigterm():
            (HERE / "counting").touch()
            while not preemption.expected() and not kept:
                time.sleep(0.02)
        if not kept:
            Path(config["out"], "kept").write_text("7")
            raise Preempted("7 is kept")
        Path(config["out"], "counted").write_text(str(kept))

    @step_fn(kind="sleeps")
    def sleeps(config):
        (HERE / "sleeping").touch()
        time.sleep(600)

    @step_fn(kind="dies")
    def dies(config):
        done = len(config["earlier"])
        if done < 6:
            if config["keeps"]:
                progress.kept(done + 1)
            progress.report(done, 6, "lives")
            if config["keeps"]:
                time.sleep(1.5 * float(os.environ["BEAT"]))
            os.kill(os.getpid(), 9)

    def step(fn, **fields):
        config = {"out": this_output_path(), "earlier": earlier_attempts(), **fields}
        return ExecutorStep(fn.__name__, fn, config, resources=CpuConfig(0.5))

    if __name__ == "__main__":
        fn, *flags = sys.argv[1:]
        fields = {"keeps": "keeps" in flags} if fn == "dies" else {}
        flags = [flag for flag in flags if flag != "keeps"]
        executor_main([step(globals()[fn], **fields)], argv=["--prefix", str(HERE / "store"), *flags])
"""


@pytest.fixture
def launch(tmp_path):
    path = tmp_path / "launch.py"
    path.write_text(textwrap.dedent(SCRIPT))
    started = []

    def start(*arguments: str) -> subprocess.Popen:
        from marin_sft.execution.stores import open_store

        beat = str(open_store(str(tmp_path / "store")).beat_seconds)
        process = subprocess.Popen(
            [sys.executable, str(path), *arguments],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "BEAT": beat},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def await_file(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_sigterm_lets_a_step_keep_what_it_has_done(launch, tmp_path, backend):
    first = launch("counts", "--backend", backend)
    await_file(tmp_path / "counting", first)
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 130 and "Interrupted. Finished steps are kept" in output
    (claims,) = tmp_path.glob("store/counts-*/claims")
    assert json.loads((claims / "000001.beat").read_text())["released"]
    assert not (claims / "000002.json").exists()

    again = launch("counts", "--backend", backend)
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    assert next(tmp_path.glob("store/counts-*/2/counted")).read_text() == "7"


@pytest.mark.parametrize("backend", ["inline", "ray"])
def test_sigterm_ends_a_step_that_keeps_nothing_at_once(launch, tmp_path, backend):
    process = launch("sleeps", "--backend", backend)
    await_file(tmp_path / "sleeping", process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output


def test_losses_are_free_as_long_as_each_attempt_keeps_more(launch, tmp_path):
    keeps = launch("dies", "keeps")
    output, _ = keeps.communicate(timeout=180)
    assert keeps.returncode == 0 and output.count(" lost ") == 6, output

    keeps_nothing = launch("dies", "--force_run", "dies")
    output, _ = keeps_nothing.communicate(timeout=180)
    assert keeps_nothing.returncode == 1 and "the worker was lost 4 times" in output
