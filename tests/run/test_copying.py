"""`marin-sft copy`: an output in a directory of its own."""

import json
from pathlib import Path

import pytest

from marin_sft.execution.executor import Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path
from marin_sft.paths import file_system
from marin_sft.run import command

FILES = {"config.json": "{}", "model.safetensors": "weights", "onnx/model.onnx": "more", ".provenance.json": "{}"}


@step_fn(kind="makes_a_model")
def make(config: dict) -> None:
    filesystem, plain = file_system(config["out"])
    for name, text in FILES.items():
        filesystem.makedirs(f"{plain}/{name}".rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(f"{plain}/{name}", text.encode())


@pytest.fixture(params=["disk", "s3"])
def prefix(request, tmp_path) -> str:
    """A store with the step hf/mine."""
    path = str(tmp_path / "store")
    if request.param == "s3":
        request.getfixturevalue("s3")
        path = "s3://bucket/copying"
    step = ExecutorStep("hf/mine", make, {"out": this_output_path()})
    Executor(ExecutorFlags(prefix=path, backend="inline")).run([step])
    return path


def call(*arguments: object, code: int = 0) -> None:
    assert command.main(["copy", *map(str, arguments)]) == code


def contents(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


def test_an_output_without_the_files_of_the_store(prefix, tmp_path, capsys):
    target = tmp_path / "new" / "model"
    call("hf/mine", target, "--prefix", prefix, "--json")
    published = {name: text for name, text in FILES.items() if not name.startswith(".")}
    assert contents(target) == published and [path.name for path in target.parent.iterdir()] == ["model"]
    assert json.loads(capsys.readouterr().out) == {"directory": str(target), "files": sorted(published)}
    call("hf/mine", target, "--prefix", prefix, code=2)
    assert f"{target} exists already" in capsys.readouterr().err and contents(target) == published
    command.main(["path", "hf/mine", "--prefix", prefix])
    output = capsys.readouterr().out.strip()
    call(f"{output}/onnx", tmp_path / "part", "--prefix", prefix)
    assert contents(tmp_path / "part") == {"model.onnx": "more"}
    call(output.rpartition("/")[0], tmp_path / "of_any_store")
    assert contents(tmp_path / "of_any_store") == published


def test_what_cannot_be_copied_leaves_nothing(tmp_path, capsys):
    step = ExecutorStep("hf/mine", make, {"out": this_output_path()})
    run = Executor(ExecutorFlags(prefix=str(tmp_path / "store"), backend="inline")).run([step])
    given = ("--prefix", tmp_path / "store")
    call("hf/mine", "gs://bucket/model", *given, code=2)
    assert "expected a local directory, got gs://bucket/model" in capsys.readouterr().err
    call("hf/mined", tmp_path / "model", *given, code=2)
    assert "did you mean 'hf/mine'" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    call(tmp_path / "empty", tmp_path / "model", *given, code=2)
    assert f"{tmp_path}/empty has no files" in capsys.readouterr().err
    call("hf/mine", "/proc/model", *given, code=2)
    assert capsys.readouterr().err == "error: copy: /proc/model cannot be written: No such file or directory\n"
    weights = Path(run.output_path(step, "model.safetensors"))
    weights.chmod(0o644)
    weights.write_text("cut")
    call("hf/mine", tmp_path / "model", *given, code=2)
    told = "model.safetensors has 3 bytes, and had 7 when its step committed it; see marin-sft verify"
    assert told in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "store"]
