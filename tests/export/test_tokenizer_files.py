"""Tokenizers that transformers 4 and 5 load as the same. (`benchmarks/serve_families.py` asks transformers 5.)"""

import json

import pytest
import transformers

from benchmarks.serve_export import TEXTS
from marin_sft.data.tokenizer import PLAIN_CLASS
from marin_sft.export import tokenizer_files
from marin_sft.export.directory import write_export
from marin_sft.export.hf_config import HfExport
from marin_sft.training.models.model_directory import ModelDirectory
from tests.published import tiny_tokenizers

CLASSES = {
    "qwen": "Qwen2Tokenizer",
    "gemma": "GemmaTokenizer",
    "llama2": PLAIN_CLASS,
    "llama3": PLAIN_CLASS,
    "olmo": PLAIN_CLASS,
    "plain": PLAIN_CLASS,
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_stays_where_it_splits_as_the_file_does(name, tmp_path):
    tokenizer = getattr(tiny_tokenizers, name)()
    tokenizer_files.save(str(tmp_path), tokenizer)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"].removesuffix("Fast") == CLASSES[name].removesuffix("Fast")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert [again.decode(again.encode(text)) for text in TEXTS] == [
        tokenizer.decode(tokenizer.encode(t)) for t in TEXTS
    ]
    for field in ("padding_side", "bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(again, field) == getattr(tokenizer, field)
    assert "token_type_ids" not in again("a")


def test_a_tokenizer_that_splits_as_no_class_does():
    tokenizer = tiny_tokenizers.qwen()
    assert tokenizer_files.splits_as(tokenizer, "Qwen2TokenizerFast")
    assert not tokenizer_files.splits_as(tokenizer, "GemmaTokenizer")
    assert not tokenizer_files.splits_as(tokenizer, "UnheardOfTokenizer")
    tokenizer.backend_tokenizer.normalizer = tiny_tokenizers.gemma().backend_tokenizer.normalizer
    assert not tokenizer_files.splits_as(tokenizer, "Qwen2Tokenizer")


@pytest.mark.parametrize(
    ("name", "family", "told"), [("qwen", "Qwen2", 0), ("plain", "Qwen2", 1), ("plain", "Qwen3", 0)]
)
def test_what_no_file_can_change_is_told(name, family, told, tmp_path, capfd):
    tokenizer = getattr(tiny_tokenizers, name)()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(tokenizer)}
    base = tmp_path / "base"
    shape = getattr(transformers, f"{family}Config")(**sizes, **heads, eos_token_id=tokenizer.eos_token_id)
    transformers.AutoModelForCausalLM.from_config(shape).save_pretrained(base)
    tokenizer.save_pretrained(base)
    tensors, config = dict(ModelDirectory(base).tensors()), ModelDirectory(base).config
    write_export(str(tmp_path / "out"), tensors, config, HfExport(base_model=str(base)), ModelDirectory(base), {})
    assert capfd.readouterr().err.count("transformers 5 loads a Qwen2Tokenizer for every model of type qwen2") == told
