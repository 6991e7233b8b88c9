import numpy as np
import pytest

from marin_sft.errors import ConfigError, TrainingError
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.reinit import token_ids, with_new_rows
from marin_sft.training.sft_config import SFTConfig


def test_only_the_rows_of_these_tokens_are_drawn_anew():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=4000).astype(np.float32)
    embeddings = (mean + 0.1 * rng.normal(size=(50, 4000))).astype(np.float32)
    embeddings[7] = 1000.0
    tensors = {"model.embed_tokens.weight": embeddings, "lm_head.weight": 2 * embeddings, "model.norm.weight": mean}
    changed = with_new_rows(tensors, [3, 7], seed=0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        same = [i for i in range(50) if i not in (3, 7)]
        np.testing.assert_array_equal(changed[name][same], tensors[name][same])
        others = tensors[name][same]
        for row in changed[name][[3, 7]]:
            z = (row - others.mean(0)) / others.std(0)
            assert abs(z.mean()) < 0.1 and abs(z.std() - 1) < 0.05 and np.abs(z).max() < 3.001
    assert np.array_equal(changed["model.norm.weight"], mean) and embeddings[7, 0] == 1000
    assert not np.array_equal(changed["model.embed_tokens.weight"][3], changed["model.embed_tokens.weight"][7])
    again, other = with_new_rows(tensors, [7, 3], seed=0), with_new_rows(tensors, [3, 7], seed=1)
    np.testing.assert_array_equal(again["lm_head.weight"], changed["lm_head.weight"])
    assert not np.array_equal(other["lm_head.weight"][3], changed["lm_head.weight"][3])


def test_tokens_are_those_of_the_tokenizer(base_model):
    assert token_ids(base_model, ["<|end|>", "<|pad|>"]) == [3, 0]
    with pytest.raises(TrainingError, match=r"reinit_tokens: got \['<\|eot_id\|>'\], expected tokens"):
        token_ids(base_model, ["<|eot_id|>", "w1"])
    with pytest.raises(ConfigError, match="reinit_tokens = '<|end|>': expected a sequence"):
        SFTConfig(
            mixture="m",
            tokenized={},
            base_model="b",
            train_batch_size=1,
            num_train_steps=1,
            learning_rate=1,
            reinit_tokens="<|end|>",
        )


def test_the_model_that_is_trained_has_them(base_model):
    before = dict(ModelDirectory(base_model).tensors())["model.embed_tokens.weight"]
    model = levanter_model.load_model(base_model, reinit_tokens=("<|end|>",), seed=5)
    after = levanter_model.model_tensors(model)["model.embed_tokens.weight"]
    assert np.flatnonzero((after != before).any(1)).tolist() == [3]
