"""`marin-sft fit`, with its processes."""

import json

import pytest

from marin_sft.run import command
from marin_sft.run.fit import _PROCESS
from marin_sft.training import host_memory
from tests.hub_server import HubServer

SCRIPT = """
from marin_sft import CpuConfig, GpuConfig
from marin_sft.recipes.llama import llama_30m
from marin_sft.steps import download, export, mixture, random_model, sft, tokenize, train_tokenizer

tokenizer = train_tokenizer("words", ["rows.jsonl"], vocab_size=4000)
base = {base}
rows = tokenize("rows", "rows.jsonl", tokenizer=tokenizer)
packed = mixture("rows", {{"rows": rows}}, weights={{"rows": 1}}, seq_len=512)
settings = dict(mixture=packed, learning_rate=1e-5, train_batch_size=16, num_train_steps=9)
first = sft("first", base_model=base, gradient_checkpointing=False, resources={resources}, **settings)
second = sft("second", base_model=export("first", first), precision="fp32", resources={resources}, **settings)
"""
RANDOM = 'random_model("base", llama_30m, tokenizer=tokenizer)'


@pytest.fixture
def fit(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"instruction": "hi", "output": "ho"}\n')

    def run(*flags, base=RANDOM, resources="CpuConfig()", code=0):
        (tmp_path / "mine.py").write_text(SCRIPT.format(base=base, resources=resources))
        assert command.main(["fit", "mine.py", *flags]) == code
        out, err = capsys.readouterr()
        return json.loads(out) if "--json" in flags and code < 2 else out + err

    return run


def test_on_gpus_that_do_not_exist_here(fit, tmp_path):
    first, second = fit("--json", resources='GpuConfig(gpu_count=2, accelerator_type="H100")')
    assert (first["name"], second["name"]) == ("checkpoints/first_seed0", "checkpoints/second_seed0")
    for found in (first, second):
        assert found["fits"] is True and found["near"] == []
        assert (found["device"], found["devices"]) == ("H100", 2)
        assert found["memory"] == pytest.approx(0.92 * 79.1 * 2**30, rel=1e-6)
        assert found["optimizer"] == pytest.approx(2 * found["weights"], abs=100)
        assert found["peak"] > found["weights"] + found["optimizer"]
    assert not (tmp_path / "store").exists()


def test_what_does_not_fit_is_refused_with_what_does(fit):
    memory = 150 * 2**20
    small = f"CpuConfig(memory={memory + _PROCESS})"
    (first,) = fit("--json", "--steps", "first", resources=small, code=1)
    assert first["fits"] is False and first["peak"] > first["memory"] == memory
    assert [setting["changes"] for setting in first["near"]] == [["per_device_parallelism=2"]], "one change is enough"
    assert first["near"][0]["peak"] <= memory


def test_training_on_a_cpu_chooses_by_the_memory_of_the_host(fit):
    memory = 700 * 2**20  # by this, it would recompute
    (limited,) = fit("--json", "--steps", "second", resources=f"CpuConfig(memory={memory + _PROCESS})")
    (free,) = fit("--json", "--steps", "second", "--device", "cpu", resources="GpuConfig(gpu_count=1)")
    assert (free["device"], free["devices"], free["compiler"]) == ("CPU", 1, "CPU")
    assert limited["memory"] == memory and free["memory"] == host_memory.capacity() - _PROCESS
    assert limited["peak"] == free["peak"]


def test_of_a_download_config_json_alone_is_fetched(fit, monkeypatch, tmp_path):
    from marin_sft.recipes.llama import llama_30m

    shape = {**llama_30m.hf_config(4000), "bos_token_id": 1}
    with HubServer() as hub:
        hub.add_model("org/base", {"config.json": json.dumps(shape).encode(), "model.safetensors": b"weights"})
        for name, value in hub.environment(home=tmp_path).items():
            monkeypatch.setenv(name, value)
        text = fit("--steps", "first", base='download("base", hf_model_id="org/base")')
        assert {path for _, path in hub.requests} == {"/org/base/resolve/main/config.json"}
    assert "1 CPU" in text and "yes" in text


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--device", "H10"], "--device 'H10'; expected one of CPU, T4,"),
        (["--device", "H10"], "v7x; did you mean 'H100'?"),
        (["--device", "x"], "--device 'x'; expected one of CPU, T4,"),
        (["--steps", "["], "--steps '[': not a regular expression: unterminated character set"),
        (["--steps", "third"], "no training step that matches 'third'"),
    ],
)
def test_what_is_not_there_is_named(fit, flags, said):
    assert said in fit(*flags, code=2)
