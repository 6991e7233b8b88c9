"""One batch gives one loss, one gradient and one line of metrics, however it is split."""

import json
from pathlib import Path

import numpy as np
import pytest

from marin_sft.training.models.peft_directory import B, read_adapter
from tests.training import parallel_runs
from tests.training.processes import FASTER_TO_COMPILE, results_of, together

FIGURES = ("step", "loss", "lr", "grad_norm", "trained_tokens", "tokens")


def lines_of(run: Path, name: str = "logged") -> list[list[float]]:
    lines = [json.loads(line) for line in (run / name / "metrics.jsonl").read_text().splitlines()]
    return [[line[figure] for figure in FIGURES] for line in lines]


@pytest.fixture(scope="module")
def one(base_model, tmp_path_factory):
    """The output of `parallel_runs` on one device; its last way logged its metrics."""
    return run_on(1, base_model, tmp_path_factory)


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 4])
def runs(request, one, base_model, tmp_path_factory):
    """Such outputs by number of devices."""
    return {1: one, request.param: run_on(request.param, base_model, tmp_path_factory)}


def run_on(devices: int, base_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp(f"devices-{devices}")
    assert parallel_runs.start(base_model, output, devices=devices).wait() == 0
    return output


def test_losses_and_gradients(runs):
    expected = dict(np.load(runs[1] / "packed -1.npz"))
    assert max(np.abs(leaf).max() for name, leaf in expected.items() if name.startswith("gradient")) > 1e-2
    paths = [path for output in runs.values() for path in output.glob("*.npz")]
    meshes = parallel_runs.MESHES if 4 in runs else ()
    assert len(paths) == sum(len(parallel_runs.WAYS[devices]) for devices in runs) + len(meshes)
    for path in paths:
        found = dict(np.load(path))
        assert found.keys() == expected.keys()
        for name, leaf in found.items():
            np.testing.assert_allclose(leaf, expected[name], atol=1e-5, err_msg=f"{path}: {name}")


def test_logged_metrics(runs):
    expected = lines_of(runs[1])
    assert len(expected) == parallel_runs.STEPS
    for output in runs.values():
        np.testing.assert_allclose(lines_of(output), expected, atol=1e-5, err_msg=str(output))


def test_an_adapter(runs):
    expected = read_adapter(str(runs[1] / "lora" / "adapter")).tensors
    assert any(np.abs(tensor).max() > 0 for name, tensor in expected.items() if name.endswith(B))  # it was trained
    for output in runs.values():
        np.testing.assert_allclose(lines_of(output, "lora"), lines_of(runs[1], "lora"), atol=1e-5, err_msg=str(output))
        found = read_adapter(str(output / "lora" / "adapter")).tensors
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            np.testing.assert_allclose(tensor, expected[name], atol=1e-5, err_msg=f"{output}: {name}")


@pytest.mark.slow
def test_two_processes_each_with_its_own_rows(one, base_model, tmp_path):
    """Ended in the middle, they go on together from a checkpoint that is whole."""
    first, second = tmp_path / "1", tmp_path / "2"
    flags = FASTER_TO_COMPILE
    results_of(together((parallel_runs.ended_in_the_middle, base_model, first, None), devices=2, flags=flags))
    damaged = max((first / "logged/checkpoints/step-2").rglob("d/*"), key=lambda path: path.stat().st_size)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    ended = together((parallel_runs.ended_in_the_middle, base_model, second, first), devices=2, flags=flags)
    results_of(ended)
    told = "".join(process.output for process in ended)
    assert told.count("step-2: ") == 1 and told.count("going on from") == 2 and "checkpoints/step-1\n" in told
    np.testing.assert_allclose(lines_of(second), lines_of(one), atol=1e-5)
    assert (second / "logged" / "model" / "model.safetensors").exists()
