"""Plans that are written to a file, and carried out later, exactly or not at all."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from marin_sft.errors import RunFailed, UserError
from marin_sft.execution.executor import CpuConfig, ExecutorStep, RuntimeEnv, step_fn, this_output_path
from marin_sft.execution.plan_file import read_plan
from marin_sft.run.command import main


@pytest.fixture
def planning(pipeline, tmp_path):
    """The pipeline, with `out` to write a plan and `carry_out` to run it."""
    file = str(tmp_path / "plan.json")

    def out(*steps: ExecutorStep, **flags: Any) -> dict[str, Any]:
        pipeline.run(*steps, plan_out=file, **flags)
        return json.loads(Path(file).read_text())

    def carry_out(*steps: ExecutorStep, **flags: Any) -> dict[str, str]:
        run = pipeline.run(*steps, plan=file, **flags)
        return {result.item.node.name: result.status for result in run.results}

    return SimpleNamespace(**vars(pipeline), file=file, out=out, carry_out=carry_out)


def pair(planning, **fields: Any) -> ExecutorStep:
    return planning.step("b", planning.step("a", **fields))


def test_a_plan_is_written_without_running_and_then_carried_out(planning):
    document = planning.out(pair(planning))
    assert planning.bodies() == [] and not planning.prefix.exists()
    assert document["format"] == 1 and [step["action"] for step in document["steps"]] == ["RUN", "RUN"]
    assert planning.carry_out(pair(planning)) == {"a": "ran", "b": "ran"}
    assert planning.bodies() == ["a", "b"]
    (record,) = planning.prefix.glob("b-*/1/.record.json")
    assert json.loads(record.read_text())["launch"]["plan"] == read_plan(planning.file).digest


def test_the_same_plan_has_the_same_bytes(planning):
    planning.out(pair(planning))
    first = Path(planning.file).read_bytes()
    planning.out(pair(planning))
    assert Path(planning.file).read_bytes() == first and first.endswith(b"\n")
    assert [path.name for path in Path(planning.file).parent.iterdir()] == ["plan.json"]


def test_what_has_changed_since_is_named(planning):
    planning.run(planning.step("c"))
    planning.out(pair(planning), planning.step("c"))

    def refusal(*steps: ExecutorStep, **flags: Any) -> str:
        planning.bodies()
        with pytest.raises(UserError) as error:
            planning.carry_out(*steps, **flags)
        assert planning.bodies() == []
        return str(error.value)

    c = planning.step("c")
    said = refusal(pair(planning, rate=0.5), c)
    assert "a: rate 0.001 -> 0.5\n" in said and "b: inputs[0] is another output" in said
    assert "--plan_out" in said
    assert "d: is not in the plan" in refusal(pair(planning), c, planning.step("d"))
    assert "c: is in the plan, but no longer in the experiment" in refusal(pair(planning))
    moved = dataclasses.replace(c, resources=CpuConfig(cpus=3))
    assert "c: resources cpus 1 -> 3" in refusal(pair(planning), moved)
    assert "--force_run [] -> ['c']" in refusal(pair(planning), c, force_run=("c",))
    assert "prefix" in refusal(pair(planning), c, prefix=f"{planning.prefix}2")
    planning.run(c, force_run=("c",))
    said = refusal(pair(planning), c)
    assert "c: commit 1 was the newest, now there is commit 2, by" in said
    planning.run(pair(planning))
    assert "a: there was no output, now there is commit 1, by " in refusal(pair(planning), c)


def test_an_edited_function_or_file_is_named(planning, tmp_path):
    script = tmp_path / "experiment" / "train.py"
    script.parent.mkdir()
    helper = script.with_name("helper.py")
    helper.write_text("SIZE = 1\n")
    text = (
        "import helper\n"
        "from dataclasses import dataclass\n"
        "from pathlib import Path\n"
        "from marin_sft import ExecutorStep, executor_main, step_fn, this_output_path\n"
        "@dataclass(frozen=True)\n"
        "class Config:\n"
        "    output_path: str = this_output_path()\n"
        "@step_fn(kind='one')\n"
        "def body(config):\n"
        "    Path(config.output_path, 'x').write_text(str(helper.SIZE))\n"
        "if __name__ == '__main__':\n"
        "    executor_main([ExecutorStep('one', body, Config())])\n"
    )
    script.write_text(text)

    def launch(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), "--prefix", str(planning.prefix), "--backend", "inline", *flags]
        return subprocess.run(command, capture_output=True, text=True)

    done = launch("--plan_out", planning.file)
    assert done.returncode == 0 and f"train.py --prefix {planning.prefix} --backend inline --plan " in done.stderr
    helper.write_text("SIZE = 2\n")
    done = launch("--plan", planning.file)
    assert done.returncode == 2 and "code: helper.py was edited" in done.stderr
    helper.write_text("SIZE = 1\n")
    script.write_text(text.replace("str(helper.SIZE)", "'other'"))
    done = launch("--plan", planning.file)
    assert done.returncode == 2 and "one: the source of its function has changed" in done.stderr
    assert "code: train.py was edited" in done.stderr
    script.write_text(text)
    assert launch("--plan", planning.file).returncode == 0


def test_the_command_that_is_told_carries_the_plan_out(tmp_path):
    """With the variables that the script reads, but no secrets; and with a path that needs quotes."""
    (tmp_path / "train.py").write_text(
        "import dataclasses, os\n"
        "from pathlib import Path\n"
        "from marin_sft import ExecutorStep, executor_main, this_output_path, versioned\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Config:\n"
        "    rate: float\n"
        "    output_path: str = this_output_path()\n"
        "def body(config):\n"
        "    Path(config.output_path, 'x').write_text(str(config.rate))\n"
        "    assert not Path('fails').exists()\n"
        "if __name__ == '__main__':\n"
        "    token = os.environ['HF_TOKEN']\n"
        "    config = Config(versioned(float(os.environ.get('RATE', '1'))))\n"
        "    executor_main([ExecutorStep('one', body, config)])\n"
    )
    paths = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(sys.path)}
    usual = {**paths, "HF_TOKEN": "hf_thisMustNotBeSeen0123456789", "UNUSED": "1"}

    def launch(command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**usual, **variables}
        return subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = launch("python train.py --backend inline --plan_out 'my plan.json'", RATE="0.5")
    again = done.stderr.partition("To carry it out: ")[2].strip()
    assert again == "RATE=0.5 python train.py --backend inline --plan 'my plan.json'", done.stderr
    (tmp_path / "fails").touch()
    done = launch(again)
    assert done.returncode == 1, done.stderr
    (tmp_path / "fails").unlink()
    (command,) = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("  again ")]
    assert command == "RATE=0.5 python train.py --backend inline --run_only '^one$'"
    assert launch(command).returncode == 0
    assert [path.read_text() for path in tmp_path.glob("store/one-*/*/x")].count("0.5") >= 1


def test_a_plan_may_lie_anywhere(planning, tmp_path, monkeypatch):
    step = pair(planning)
    monkeypatch.setattr("sys.argv", [f"{tmp_path}/script.py"])  # which names no variables, as other tests may
    url = f"file://{tmp_path}/at/plan.json"
    planning.run(step, plan_out=url)
    (tmp_path / "launched").mkdir()
    monkeypatch.setenv("MARIN_SFT_LAUNCH_DIR", str(tmp_path / "launched"))  # as in a job on this machine
    planning.run(step, plan_out="plan.json")
    assert (tmp_path / "launched/plan.json").read_text() == (tmp_path / "at/plan.json").read_text()
    assert read_plan("plan.json") == read_plan(url)
    monkeypatch.setenv("MARIN_SFT_LAUNCH_DIR", "")  # as in one from another machine, whose files are shipped
    monkeypatch.chdir(tmp_path / "launched")
    assert read_plan("plan.json") == read_plan(url)
    with pytest.raises(UserError, match="--plan_out plan.json: a relative path cannot be used in a job on another"):
        planning.run(step, plan_out="plan.json")


def test_a_plan_that_was_partly_carried_out_goes_on(planning, tmp_path):
    fails = tmp_path / "fails"
    fails.touch()
    steps = planning.step("b", planning.step("a"), fail_while=str(fails))
    planning.out(steps)
    with pytest.raises(RunFailed):
        planning.carry_out(steps)
    assert planning.bodies() == ["a", "b"]
    fails.unlink()
    assert planning.carry_out(steps) == {"a": "cached", "b": "ran"}
    assert planning.bodies() == ["b"]
    assert planning.carry_out(steps) == {"a": "cached", "b": "cached"}


def test_a_forced_step_is_run_once_by_a_plan_that_goes_on(planning, tmp_path):
    fails = tmp_path / "fails"
    a = planning.step("a")
    steps = [a, planning.step("b", fail_while=str(fails))]
    planning.run(*steps)
    fails.touch()
    planning.out(*steps, force_run=("*",))
    planning.bodies()
    with pytest.raises(RunFailed):
        planning.carry_out(*steps, force_run=("*",))
    fails.unlink()
    assert planning.bodies() == ["a", "b"]
    assert planning.carry_out(*steps, force_run=("*",)) == {"a": "cached", "b": "ran"}
    assert planning.bodies() == ["b"]
    planning.run(a, force_run=("a",))  # by another launch
    with pytest.raises(UserError, match="a: commit 1 was the newest, now there is commit 3, by"):
        planning.carry_out(*steps, force_run=("*",))


@dataclasses.dataclass(frozen=True)
class KeyConfig:
    api_key: str = "s3cretS3cret99"
    output_path: str = this_output_path()


@step_fn(kind="key")
def use_key(config: KeyConfig) -> None:
    raise AssertionError


def test_no_secrets_are_written(planning, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--token", "abcdefgh12345678"])
    environment = RuntimeEnv(env_vars={"URL": "https://user:passw0rd99@host/x"})
    planning.out(ExecutorStep("key", use_key, KeyConfig(), resources=CpuConfig(runtime_env=environment)))
    text = Path(planning.file).read_text()
    assert "<redacted>" in text
    for secret in ("s3cretS3cret99", "abcdefgh12345678", "passw0rd99"):
        assert secret not in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "expected a plan, as --plan_out writes it: No such file or directory"),
        ("", "expected a plan, as --plan_out writes it: not JSON"),
        ("{}", "this file has no format"),
        ("[]", "this file has a value of list, not an object"),
        ('{"format": 99}', "a plan of format 99, and this version reads 1; update marin_sft"),
    ],
)
def test_what_is_no_plan_is_refused(planning, text, message):
    if text is not None:
        Path(planning.file).write_text(text)
    with pytest.raises(UserError, match=message):
        planning.carry_out(pair(planning))


def test_a_plan_that_cannot_be_written_is_an_error(planning, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--plan_out .*: cannot be written"):
        planning.run(pair(planning), plan_out=str(tmp_path / "file" / "plan.json"))


def test_a_plan_is_shown_as_text_and_as_json(planning, capsys):
    planning.run(planning.step("a"))
    planning.out(pair(planning, rate=0.5), run_only=("b",))
    capsys.readouterr()
    assert main(["show", planning.file]) == 0
    text = capsys.readouterr().out
    assert "2 steps, 2 to run" in text and "CONFIG rate 0.001 -> 0.5" in text and "--run_only ['b']" in text
    assert str(planning.prefix) in text and f"--plan {planning.file}" in text
    assert main(["show", planning.file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(Path(planning.file).read_text())
    assert main(["show", "none.json"]) == 2
