"""Training from random weights with `default_train`, and from there with `default_sft`, on local files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import transformers

from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer

ROOT = Path(__file__).parents[2]

EXPERIMENT = """
import dataclasses

from experiments.defaults import default_sft, default_tokenize, default_train
from experiments.llama import llama_nano
from experiments.simple_sft_config import SimpleSFTConfig
from experiments.simple_train_config import SimpleTrainConfig
from marin_sft import CpuConfig, executor_main
from marin_sft.data import lm_data_config

tokens = default_tokenize("sums", "rows.jsonl", "tokenizer")
held_out = default_tokenize("held_out", "rows.jsonl", "tokenizer", is_validation=True)
pretrained = default_train(
    "first",
    lm_data_config(tokens, {"held_out": held_out}),
    llama_nano,
    SimpleTrainConfig(
        resources=CpuConfig(), train_batch_size=2, learning_rate=0.01, num_train_steps=4, train_seq_len=64,
        steps_per_eval=2, steps_per_hf_export=-1,
    ),
)
settings = SimpleSFTConfig(
    resources=CpuConfig(), train_batch_size=2, num_train_epochs=1, learning_rate=0.01, max_seq_len=64,
    initialize_from_checkpoint_path=pretrained, initialize_from_hf=False, z_loss_weight=1e-3, cooldown=0.5,
    tokenizer="tokenizer", steps_per_hf_export=100, hf_generation_eos_token_ids=[1],
)
tuned = default_sft("second", tokens, llama_nano, settings)
misfit = default_sft("third", tokens, dataclasses.replace(llama_nano, num_layers=3), settings)
if __name__ == "__main__":
    executor_main(steps=[tuned, misfit])
"""


def test_one_training_goes_on_from_another(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": f"{i} + 1?"}, {"role": "assistant", "content": f"{i + 1}"}]}
        for i in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_tokenizer(TrainTokenizerConfig((str(tmp_path / "rows.jsonl"),), 300, output_path=str(tmp_path / "tokenizer")))
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    done = subprocess.run(
        [sys.executable, "experiment.py", "--backend", "inline", "--prefix", "store"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    (first,) = (tmp_path / "store").glob("checkpoints/first_seed0-*/latest/metrics.jsonl")
    measured = [json.loads(line) for line in first.read_text().splitlines()]
    assert [line["step"] for line in measured if "validation/loss/held_out" in line] == [2, 4]
    (second,) = (tmp_path / "store").glob("checkpoints/second_seed0-*/latest")
    losses = [json.loads(line)["loss"] for line in (second / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] < measured[0]["loss"]
    (served,) = (second / "hf").iterdir()
    model = transformers.AutoModelForCausalLM.from_pretrained(served, local_files_only=True)
    assert model.generation_config.eos_token_id == [1]
    # The step whose model config is of another shape than the model fails, and says so.
    assert done.returncode == 1
    assert "num_layers = 3, but num_hidden_layers = 2" in done.stdout + done.stderr
