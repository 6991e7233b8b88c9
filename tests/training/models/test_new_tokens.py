"""Tokens added to a model before training."""

import numpy as np
import pytest
import torch
import transformers

from marin_sft import steps
from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import levanter_model, lora
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.new_tokens import add_tokens
from marin_sft.training.models.new_tokens_config import NEW_TOKENS, AddTokensConfig
from marin_sft.training.models.token_rows import token_ids_of
from marin_sft.training.models.trained_tokens import trained_ids
from tests.published.releases import RELEASES, write

EMBEDDING = "model.embed_tokens.weight"
ADAPTER = LoraConfig(r=1, alpha=1)


@pytest.fixture(scope="module")
def more(base_model, tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("more"))
    add_tokens(AddTokensConfig(model=base_model, tokens=("<tool>",), special_tokens=("<|turn|>",), output_path=path))
    return path


def test_the_tokenizer_has_them(base_model, more):
    size = len(transformers.AutoTokenizer.from_pretrained(base_model))
    tokenizer = transformers.AutoTokenizer.from_pretrained(more)
    ids = tokenizer("<|turn|> w1 <tool> w2")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["<|turn|>", "w1", "<tool>", "w2"]
    assert ids[2] == size and ids[0] == size + 1
    assert tokenizer.decode(ids, skip_special_tokens=True).split() == ["w1", "<tool>", "w2"]
    assert ModelDirectory(more).json(NEW_TOKENS) == {"tokens": {"<tool>": size, "<|turn|>": size + 1}}


def test_the_embedding_has_rows_for_them_and_nothing_else_changes(base_model, more):
    before, after = (dict(ModelDirectory(path).tensors()) for path in (base_model, more))
    rows = ModelDirectory(base_model).config["vocab_size"]
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.tobytes() == after[name][: len(tensor)].tobytes(), name
        assert len(after[name]) == len(tensor) or name == EMBEDDING
    new = after[EMBEDDING][rows:]
    assert len(new) >= 2 and np.abs(new).max() <= 4 * before[EMBEDDING].std() + np.abs(before[EMBEDDING].mean())
    assert len(np.unique(new[:2], axis=0)) == 2
    model = transformers.AutoModelForCausalLM.from_pretrained(more)
    assert model.config.vocab_size == len(after[EMBEDDING]) == model.get_output_embeddings().weight.shape[0]


def test_rows_of_no_token_are_not_likelier_than_the_mean(base_model, tmp_path):
    """So that sampling hardly ever chooses them."""
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    add_tokens(AddTokensConfig(model=base_model, tokens=("<one>",), output_path=one))  # 48 rows: a multiple of 16
    add_tokens(AddTokensConfig(model=one, tokens=("<two>",), output_path=two))
    used = ModelDirectory(two).json(NEW_TOKENS)["tokens"]["<two>"] + 1
    model = transformers.AutoModelForCausalLM.from_pretrained(two, dtype="float32")
    prompts = torch.randint(used, (8, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        unused = model(prompts).logits.softmax(-1)[..., used:]
    assert unused.shape[-1] == 15 and unused.max() <= 1 / ModelDirectory(one).config["vocab_size"]


def test_rows_that_are_there_are_used(tmp_path):
    """Published embeddings are padded. A tied model has no head, and weights keep their type."""
    base = write(tmp_path / "base", RELEASES["qwen 3"])
    add_tokens(AddTokensConfig(model=str(base), tokens=("<tool>",), output_path=str(tmp_path / "more")))
    before, after = (ModelDirectory(path) for path in (base, tmp_path / "more"))
    assert before.config == after.config
    (id,) = after.json(NEW_TOKENS)["tokens"].values()
    old, new = dict(before.tensors()), dict(after.tensors())
    assert old.keys() == new.keys()
    assert {tensor.dtype.name for tensor in new.values()} == {"bfloat16"}
    assert np.flatnonzero((old[EMBEDDING] != new[EMBEDDING]).any(1)).tolist() == [id]


def test_tokens_that_cannot_be_added(base_model, tmp_path):
    told = r"already has \['<\|end\|>'\]; expected new tokens.*use reinit_tokens"
    with pytest.raises(ConfigError, match=told):  # a local model, when planning
        steps.add_tokens("more", base_model, tokens=["<new>"], special_tokens=["<|end|>"])
    steps.add_tokens("more", base_model, tokens=["<new>"])
    steps.add_tokens("more", "gs://bucket/model", special_tokens=["<|end|>"])
    with pytest.raises(ConfigError, match=told):
        add_tokens(AddTokensConfig(model=base_model, special_tokens=("<|end|>",), output_path=str(tmp_path)))
    for given, message in [
        ({}, "at least one token"),
        ({"tokens": ("<a>",), "special_tokens": ("<a>",)}, "each once, got '<a>' twice"),
        ({"tokens": (" ",)}, "not blank"),
        ({"tokens": "<a>"}, "a sequence"),
    ]:
        with pytest.raises(ConfigError, match=message):
            AddTokensConfig(model=base_model, output_path="x", **given)


def test_an_adapter_trains_them(base_model, more):
    directory = ModelDirectory(more)
    new = tuple(sorted(directory.json(NEW_TOKENS)["tokens"].values()))
    model = levanter_model.load_model(directory, lora=ADAPTER)
    assert token_ids_of(model) == new and token_ids_of(levanter_model.load_model(base_model, lora=ADAPTER)) == ()
    stored, rows = dict(directory.tensors()), lora.adapter_tensors(model)
    own = rows["model.embed_tokens.token_adapter.trainable_tokens_delta"]
    np.testing.assert_array_equal(own, stored[EMBEDDING][list(new)])
    ids = [[1, new[0], 7, new[1], 8]]
    with torch.no_grad():
        served = transformers.AutoModelForCausalLM.from_pretrained(more)(torch.tensor(ids)).logits
    np.testing.assert_allclose(levanter_model.logits(model, ids), served, atol=1e-5)


def test_tokens_are_chosen_by_name_or_id(base_model, more):
    directory = ModelDirectory(more)
    for chosen, ids in [((), ()), (["<|end|>", 7], (3, 7)), ([7, 7], (7,))]:
        assert trained_ids(LoraConfig(r=1, alpha=1, trainable_tokens=chosen), directory, []) == ids
    assert trained_ids(ADAPTER, ModelDirectory(base_model), [5]) == (5,)
    for chosen, message in [
        (["<|none|>"], r"trainable_tokens: got \['<\|none\|>'\].*add_tokens"),
        ([999], "got id 999"),
    ]:
        with pytest.raises(TrainingError, match=message):
            trained_ids(LoraConfig(r=1, alpha=1, trainable_tokens=chosen), directory, [])
    with pytest.raises(ConfigError, match="trainable_tokens = '<tool>'"):
        LoraConfig(r=1, alpha=1, trainable_tokens="<tool>")


def test_an_adapter_trains_what_was_drawn_anew(base_model):
    model = levanter_model.load_model(base_model, reinit_tokens=("<|end|>",), seed=5, lora=ADAPTER)
    whole = levanter_model.model_tensors(levanter_model.load_model(base_model, reinit_tokens=("<|end|>",), seed=5))
    own = lora.adapter_tensors(model)["model.embed_tokens.token_adapter.trainable_tokens_delta"]
    assert token_ids_of(model) == (3,)
    np.testing.assert_array_equal(own, whole[EMBEDDING][[3]])
