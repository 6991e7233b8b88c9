"""Tokens that were added before an adapter was trained: its files, the merged model, and where training goes on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from marin_sft.errors import TrainingError
from marin_sft.export.hf import ExportConfig, export_hf
from marin_sft.training.fakes import CountingBatches
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import levanter_model, lora
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.new_tokens import add_tokens
from marin_sft.training.models.new_tokens_config import NEW_TOKENS, AddTokensConfig
from marin_sft.training.models.peft_directory import read_adapter
from marin_sft.training.sft import train
from marin_sft.training.sft_config import SFTConfig

ROWS = ".token_adapter.trainable_tokens_delta"
MATRICES = ("model.embed_tokens", "lm_head")


@pytest.fixture(scope="module")
def base(base_model, tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("base"))
    tokens = ("<tool>", "</tool>")
    add_tokens(AddTokensConfig(model=base_model, tokens=tokens, special_tokens=("<|turn|>",), output_path=path))
    return path


@pytest.fixture(scope="module")
def new(base) -> list[int]:
    return sorted(ModelDirectory(base).json(NEW_TOKENS)["tokens"].values())


@pytest.fixture(scope="module")
def trained(base, new, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("trained")
    config = SFTConfig(
        mixture="unused",
        tokenized={},
        base_model=base,
        output_path=str(output),
        earlier_attempts=(),
        train_batch_size=8,
        num_train_steps=6,
        learning_rate=1e-2,
        weight_decay=0.1,
        precision="fp32",
        lora=LoraConfig(r=3, alpha=6),
    )
    train(config, CountingBatches(vocab_size=new[-1] + 1, batch_size=8, length=16))
    return output


def test_the_adapter_has_their_rows_in_the_form_of_peft(trained, new):
    stored = json.loads((trained / "adapter/adapter_config.json").read_text())
    assert stored["trainable_token_indices"] == {"embed_tokens": new, "lm_head": new}
    tensors = load_file(trained / "adapter/adapter_model.safetensors")
    rows = {name: tensor for name, tensor in tensors.items() if "lora" not in name}
    assert {name: tensor.shape for name, tensor in rows.items()} == {
        f"base_model.model.{matrix}{ROWS}": (3, 32) for matrix in MATRICES
    }


def test_they_were_added_to_embedding_and_head(base, base_model, new):
    before, after = (dict(ModelDirectory(path).tensors()) for path in (base_model, base))
    for name in (f"{matrix}.weight" for matrix in MATRICES):
        assert before[name].tobytes() == after[name][: new[0]].tobytes()
        assert after[name].shape == (new[-1] + 1, 32) and after[name][new].any(1).all()


def test_of_the_embeddings_only_they_were_trained(trained, base, new):
    before, after = (dict(ModelDirectory(path).tensors()) for path in (base, trained / "model"))
    for name in (f"{matrix}.weight" for matrix in MATRICES):
        changed = np.flatnonzero((before[name] != after[name]).any(1)).tolist()
        assert changed == new, name
        assert np.abs(before[name] - after[name])[new].max() > 1e-3
    norm = "model.norm.weight"
    assert before[norm].tobytes() == after[norm].tobytes()


def test_adapter_and_export_compute_what_peft_does(trained, base, new, tmp_path):
    """PEFT puts the rows into the embedding and the head, and adds B A to the layers."""
    ids = [[1, new[0], 7, new[2], 8, new[1], 9]]
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    tensors = {name: torch.tensor(value) for name, value in read_adapter(str(trained / "adapter")).tensors.items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            layer = name.removesuffix(".weight")
            if layer + ROWS in tensors:
                parameter[new] = tensors[layer + ROWS]
            if f"{layer}.lora_A.weight" in tensors:
                parameter += 6 / 3 * tensors[f"{layer}.lora_B.weight"] @ tensors[f"{layer}.lora_A.weight"]
        expected = model(torch.tensor(ids)).logits
    adapted = levanter_model.load_model(base, lora=LoraConfig(adapter_path=str(trained / "adapter")))
    np.testing.assert_allclose(levanter_model.logits(adapted, ids), expected, atol=1e-5)
    export_hf(ExportConfig(checkpoint=str(trained), base_model=base, output_path=str(tmp_path / "hf")))
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        np.testing.assert_allclose(exported(torch.tensor(ids)).logits, expected, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert [tokenizer.convert_tokens_to_ids(token) for token in ("<tool>", "</tool>", "<|turn|>")] == new
    assert tokenizer.decode(new, skip_special_tokens=True).split() == ["<tool>", "</tool>"]
    assert exported.config.vocab_size == len(exported.get_input_embeddings().weight) > new[-1]


def test_training_goes_on_from_them(trained, base, base_model, new):
    adapter = str(trained / "adapter")
    stored = read_adapter(adapter).tensors[f"lm_head{ROWS}"]
    further = levanter_model.load_model(base, lora=LoraConfig(adapter_path=adapter, trainable_tokens=[5]))
    rows = lora.adapter_tensors(further)[f"lm_head{ROWS}"]
    np.testing.assert_array_equal(rows[1:], stored)
    np.testing.assert_array_equal(rows[0], dict(ModelDirectory(base).tensors())["lm_head.weight"][5])
    with pytest.raises(TrainingError, match=rf"reinit_tokens: the adapter at .* has trained .* ids \[{new[0]}\]"):
        levanter_model.load_model(base, lora=LoraConfig(adapter_path=adapter), reinit_tokens=("<tool>",))
    with pytest.raises(TrainingError, match=f"got id {new[0]}, expected ids from 0 to {new[0] - 1}"):
        levanter_model.load_model(base_model, lora=LoraConfig(adapter_path=adapter))


def test_rows_and_ids_that_do_not_fit_each_other(trained, tmp_path):
    config = json.loads((trained / "adapter/adapter_config.json").read_text())
    config["trainable_token_indices"]["lm_head"].pop()
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes((trained / "adapter/adapter_model.safetensors").read_bytes())
    with pytest.raises(TrainingError, match="lm_head.* has the rows of 3 tokens, expected as many as .* names, 2"):
        read_adapter(str(tmp_path))
