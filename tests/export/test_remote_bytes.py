"""What training, export and evaluation read of and write to an object store: the weights once."""

import json

import pytest

from marin_sft.evaluation.generate import GenerateConfig, generate
from marin_sft.export.hf import ExportConfig, export_hf
from marin_sft.export.periodic import PeriodicExports
from marin_sft.training.fakes import CountingBatches
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models.model_directory import WEIGHTS
from marin_sft.training.sft import train
from tests.counted_files import Counted, counted_files
from tests.training.small_runs import sft_config

BATCHES = CountingBatches(vocab_size=40, batch_size=4, length=16)


@pytest.fixture
def files():
    with counted_files() as files:
        yield files


def run(files: Counted, base_model: str, **changes) -> int:
    """Two steps with an export after the last, from and to the store; the size of the base's weights."""
    base = files.put("base", base_model)
    exports = PeriodicExports(base_model=base, steps=2, dtype="float32")
    train(sft_config(base, "memory://run", num_train_steps=2, hf_exports=exports, **changes), BATCHES)
    return files.sizes(f"/base/{WEIGHTS}")[f"/base/{WEIGHTS}"]


def small_files(files: Counted, name: str) -> int:
    return sum(size for path, size in files.sizes(name).items() if not path.endswith(".safetensors"))


def test_training_reads_the_weights_once_and_writes_each_model_once(files, base_model):
    weights = run(files, base_model)
    of_base = {path: count for path, count in files.read.items() if path.startswith("/base/")}
    assert of_base[f"/base/{WEIGHTS}"] == weights
    assert sum(of_base.values()) <= 1.1 * weights + small_files(files, "/base")
    for path in ("/run/hf/step-2", "/run/model"):
        assert files.written[f"{path}/{WEIGHTS}"] == files.sizes(path)[f"{path}/{WEIGHTS}"] > 0.9 * weights
    assert not any(path.endswith(".safetensors") for path in files.read if path.startswith("/run"))


def test_weights_that_are_not_trained_are_read_once_more_for_each_model(files, base_model):
    weights = run(files, base_model, lora=LoraConfig(r=2, alpha=4))
    # To train, for the export, and for the model.
    assert 2.9 * weights < files.read[f"/base/{WEIGHTS}"] <= 3 * weights
    files.clear()
    weights = run(files, base_model, frozen_parameters="embed_tokens")
    embedding, header = 47 * 32 * 4, 4096
    assert weights < files.read[f"/base/{WEIGHTS}"] <= weights + 2 * (embedding + header)


def test_an_export_reads_and_writes_the_weights_once(files, base_model, checkpoint):
    trained, base = files.put("trained", checkpoint), files.put("base", base_model)
    export_hf(ExportConfig(checkpoint=trained, base_model=base, output_path="memory://export", dtype="float32"))
    weights = files.sizes("/trained/model")[f"/trained/model/{WEIGHTS}"]
    assert files.read[f"/trained/model/{WEIGHTS}"] == weights
    assert f"/base/{WEIGHTS}" not in files.read
    assert files.written[f"/export/{WEIGHTS}"] == files.sizes("/export")[f"/export/{WEIGHTS}"]
    assert sum(files.written.values()) == sum(files.sizes("/export").values())


def test_an_evaluation_reads_the_model_once(files, base_model, tmp_path):
    row = {"messages": [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}]}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    generate(
        GenerateConfig(
            model=files.put("base", base_model),
            prompts={"some": str(tmp_path / "prompts.jsonl")},
            max_new_tokens=2,
            batch_size=1,
            output_path=str(tmp_path / "answers"),
        )
    )
    config = files.read.pop("/base/config.json")
    assert config <= 2 * files.sizes("/base/config.json")["/base/config.json"]  # transformers reads it for a tokenizer
    assert f"/base/{WEIGHTS}" in files.read
    assert all(count <= files.sizes(path)[path] for path, count in files.read.items())
