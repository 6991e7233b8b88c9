"""Exports that training writes on its way."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import transformers

from marin_sft import progress
from marin_sft.errors import ConfigError
from marin_sft.export.periodic import PeriodicExports
from marin_sft.training.fakes import CountingBatches
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.sft import train
from marin_sft.training.sft_config import SFTConfig
from tests.training.small_runs import sft_config

BATCHES = CountingBatches(vocab_size=40, batch_size=4, length=16)


def config_for(base_model: str, output: Path, *earlier: Path, **changes) -> SFTConfig:
    exports = PeriodicExports(base_model=base_model, steps=3, dtype="float32", generation_eos_token_ids=(3,))
    fields = {"num_train_steps": 7, "gradient_checkpointing": True, "hf_exports": exports, **changes}
    return sft_config(base_model, output, *earlier, **fields)


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def trained(base_model, tmp_path_factory):
    output = tmp_path_factory.mktemp("trained")
    train(config_for(base_model, output), BATCHES)
    return output


def test_every_so_many_steps_and_after_the_last(trained):
    assert sorted(path.name for path in (trained / "hf").iterdir()) == ["step-3", "step-6", "step-7"]
    last, final = (dict(ModelDirectory(str(trained / name)).tensors()) for name in ("hf/step-7", "model"))
    assert all(np.array_equal(last[name], final[name]) for name in final)
    earlier = dict(ModelDirectory(str(trained / "hf" / "step-3")).tensors())
    assert not np.array_equal(earlier["model.norm.weight"], final["model.norm.weight"])


def test_each_is_declared_whole_with_its_files(trained):
    assert sorted(bytes_of(trained / ".parts")) == ["hf/step-3.json", "hf/step-6.json", "hf/step-7.json"]
    (declared,) = json.loads((trained / ".parts" / "hf" / "step-3.json").read_text()).values()
    files = bytes_of(trained / "hf" / "step-3")
    assert {file["path"]: (file["size"], file["sha256"]) for file in declared} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()
    }


@pytest.mark.parametrize("step", [3, 7])
def test_each_serves_by_itself(trained, step):
    path = trained / "hf" / f"step-{step}"
    assert json.loads((path / "generation_config.json").read_text())["eos_token_id"] == [3]
    card = (path / "README.md").read_text()
    assert f"| step | {step} |" in card and "| trained_tokens |" in card
    served = transformers.AutoModelForCausalLM.from_pretrained(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    dialogue = [{"role": "user", "content": "w1"}]
    ids = tokenizer.apply_chat_template(dialogue, add_generation_prompt=True, return_tensors="pt")
    assert served(ids).logits.isfinite().all()


def test_generate_stops_by_itself(base_model, tmp_path):
    """A model trained to answer with two words and <|end|> does so, without being told where to stop."""

    class Answers(CountingBatches):
        def _documents(self, rng: np.random.Generator) -> list[list[int]]:
            # <|start|> user w0 <|end|> <|start|> assistant w1 w2 <|end|>, and what must not come after it
            return [[2, 5, 7, 3, 2, 6, 8, 9, 3, 10, 11]]

    config = config_for(base_model, tmp_path, num_train_steps=60)
    exports = PeriodicExports(base_model=base_model, steps=60)
    train(dataclasses.replace(config, hf_exports=exports), Answers(vocab_size=40, batch_size=4, length=16))

    path = tmp_path / "hf" / "step-60"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    served = transformers.AutoModelForCausalLM.from_pretrained(path)
    dialogue = [{"role": "user", "content": "w0"}]
    asked = tokenizer.apply_chat_template(dialogue, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    asked_tokens = asked["input_ids"].shape[1]
    answer = served.generate(**asked, max_new_tokens=20, do_sample=False)[0, asked_tokens:]
    assert tokenizer.convert_ids_to_tokens(answer) == ["w1", "w2", "<|end|>"]
    on = served.generate(**asked, max_new_tokens=20, do_sample=False, eos_token_id=1)
    assert len(on[0]) > asked_tokens + 3  # it is the list in generation_config.json that stops it


class Preempted(Exception):
    pass


def test_a_resumed_run_has_the_exports_of_an_uninterrupted_one(trained, base_model, tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"

    def preempt(update: progress.Progress) -> None:
        if update.done == 6:
            raise Preempted

    with progress.listening(preempt), pytest.raises(Preempted):
        train(config_for(base_model, first, steps_per_checkpoint=4, steps_per_log=1), BATCHES)
    # Torn, and of a step after the checkpoint: nobody takes it over.
    (first / "hf" / "step-5").mkdir()
    (first / "hf" / "step-5" / "config.json").write_text("{")

    train(config_for(base_model, second, first), BATCHES)

    assert bytes_of(second / "hf") == bytes_of(trained / "hf")
    assert bytes_of(second / ".parts") == bytes_of(trained / ".parts")


def test_the_cadence_is_at_least_one_step():
    with pytest.raises(ConfigError, match="PeriodicExports.steps = 0: expected at least 1"):
        PeriodicExports(base_model="b", steps=0)
