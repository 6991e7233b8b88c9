import json

import pytest

from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.random_model import random_model
from marin_sft.training.models.random_model_config import RandomModelConfig

SHAPE = {"hidden_dim": 32, "intermediate_dim": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The directory of a Llama of a few kilobytes, with its tokenizer."""
    root = tmp_path_factory.mktemp("tiny")
    sums = [f"Add {i} and {i + 1}. The sum is {2 * i + 1}." for i in range(50)]
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": text}] for text in sums]
    (root / "rows.jsonl").write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in turns))
    train_tokenizer(TrainTokenizerConfig((str(root / "rows.jsonl"),), 300, output_path=str(root / "tokenizer")))
    shape = LlamaConfig(max_seq_len=4096, **SHAPE)
    (root / "model").mkdir()
    random_model(RandomModelConfig(model=shape, tokenizer=str(root / "tokenizer"), output_path=str(root / "model")))
    return root / "model"
