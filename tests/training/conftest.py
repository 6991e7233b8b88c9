import pytest

from marin_sft.training.fakes import word_tokenizer
from marin_sft.training.models import Qwen3Config
from marin_sft.training.models.random_model import random_model
from marin_sft.training.models.random_model_config import RandomModelConfig

WORDS = [f"w{i}" for i in range(40)]
SHAPE = Qwen3Config(
    max_seq_len=32, hidden_dim=32, intermediate_dim=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16
)


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("tokenizer"))
    word_tokenizer(WORDS).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def base_model(tmp_path_factory, tokenizer_path):
    path = str(tmp_path_factory.mktemp("base"))
    random_model(RandomModelConfig(model=SHAPE, tokenizer=tokenizer_path, seed=3, output_path=path))
    return path
