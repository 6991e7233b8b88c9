import json
import shutil
from pathlib import Path

import pytest

from marin_sft.evaluation.served.served import served
from marin_sft.evaluation.step_configs import ServedConfig
from marin_sft.training.fakes import word_tokenizer
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.random_model import random_model
from marin_sft.training.models.random_model_config import RandomModelConfig

SIZES = dict(max_seq_len=64, hidden_dim=32, intermediate_dim=64, num_layers=2, num_heads=4, num_kv_heads=2)
WORDS = [f"w{i}" for i in range(40)]


@pytest.fixture(scope="session")
def export(tmp_path_factory) -> Path:
    """A small random model with all files of an export. Of its answers, some end by themselves, with <|end|>."""
    tokenizer, model = (tmp_path_factory.mktemp(name) for name in ("tokenizer", "model"))
    word_tokenizer(WORDS).save_pretrained(tokenizer)
    shape = LlamaConfig(**SIZES, tie_word_embeddings=False)
    random_model(RandomModelConfig(model=shape, tokenizer=str(tokenizer), seed=1, output_path=str(model)))
    return model


@pytest.fixture(scope="session")
def prompts(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("prompts") / "rows.jsonl"
    asked = [f"w{i} w{3 * i % 40} w{7 * i % 40}" for i in range(8)]
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": "w1"}] for text in asked]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    return str(path)


@pytest.fixture
def copy(export, tmp_path) -> Path:
    return Path(shutil.copytree(export, tmp_path / "export"))


@pytest.fixture
def check(prompts, tmp_path):
    """Checks a model with transformers; returns the directory of the output."""

    def check(model: Path, **changes: object) -> Path:
        options = {"engine": "transformers", "prompts": {"held_out": prompts}, "max_new_tokens": 16, **changes}
        served(ServedConfig(model=str(model), output_path=str(tmp_path / "out"), **options))
        return tmp_path / "out"

    return check
