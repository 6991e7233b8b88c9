"""What the documents name, small: models and datasets under the published ids, on a hub on loopback."""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from marin_sft.recipes.hub_revisions import HUB_REVISIONS
from marin_sft.training.models import LlamaConfig, Qwen3Config, QwenConfig
from tests.experiments.schemas import assistant, jsonl, parquet, turns, user
from tests.experiments.tiny_hub import LLAMA_TOKENS, QWEN_TOKENS, TEMPLATES, tiny_model, tiny_tokenizer
from tests.hub_server import HubServer
from tests.seeds.desk import Desk

SHAPE = {
    "max_seq_len": 4096, "hidden_dim": 32, "intermediate_dim": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2
}  # fmt: skip
TOKEN = "hf_" + "abcdefghij" * 3
SUMS = [{"instruction": f"What is {i} + 1?", "input": "", "output": f"{i} + 1 is {i + 1}."} for i in range(40)]


@dataclass(frozen=True)
class Published:
    """`models`: directories by hub id. `environment`: variables of a process that is to see this hub and no other."""

    models: dict[str, Path]
    environment: dict[str, str]


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    models = _models(root)
    with HubServer() as hub:
        for id, directory in models.items():
            files = {path.name: path.read_bytes() for path in directory.iterdir()}
            hub.add_model(id, files, tag=HUB_REVISIONS[id])
        for id, files in _datasets().items():
            hub.add_dataset(id, files, private=id == "allenai/WildChat", readers=[TOKEN])
        yield Published(models, hub.environment(home=root / "home"))


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    """Of this process, which plans but does not train."""
    for name in ("WANDB_API_KEY", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MARIN_SFT_PREFIX", str(tmp_path / "store"))


@pytest.fixture
def desk(published, tmp_path):
    """A directory of a user's own, with a store of its own and the hub."""
    return Desk.at(tmp_path, published.environment)


def _models(root: Path) -> dict[str, Path]:
    (root / "words.jsonl").write_bytes(jsonl(*({"messages": dialogue(row)} for row in SUMS)))
    train_tokenizer(TrainTokenizerConfig((str(root / "words.jsonl"),), 300, output_path=str(root / "plain")))
    templates = {
        name: (TEMPLATES / f"{name}.jinja").read_text().rstrip("\n") for name in ("llama3", "qwen2_5", "qwen3")
    }
    llama = tiny_tokenizer(root, LLAMA_TOKENS, templates["llama3"], eos="<|eot_id|>")
    qwen2 = tiny_tokenizer(root, QWEN_TOKENS, templates["qwen2_5"], eos="<|im_end|>")
    qwen3 = tiny_tokenizer(root, QWEN_TOKENS, templates["qwen3"], eos="<|im_end|>")
    models = {
        "Qwen/Qwen2.5-1.5B": tiny_model(root, QwenConfig(**SHAPE, tie_word_embeddings=True), qwen2),
        "Qwen/Qwen3-14B": tiny_model(root, Qwen3Config(**SHAPE, tie_word_embeddings=False), qwen3),
        "meta-llama/Llama-3.1-8B-Instruct": tiny_model(root, LlamaConfig(**SHAPE), llama),
    }
    for directory in models.values():  # as in published ones, which another version wrote
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, "transformers_version": "4.57.6"}))
    return models


def dialogue(row: dict, **more) -> list[dict]:
    return turns(user(row["instruction"], **more), assistant(row["output"], **more))


def _datasets() -> dict[str, dict[str, bytes]]:
    """Columns and splits as published. Added: a test split of the pairs and a validation split of the texts, which the
    documents name. WildChat is to be read with `TOKEN` alone."""
    asked = {"toxic": False, "language": "English"}  # further keys of WildChat's messages
    chats = [{"messages": dialogue(row)} for row in SUMS]
    wild = [{"conversation_hash": str(i), "conversation": dialogue(row, **asked)} for i, row in enumerate(SUMS)]
    pairs = [
        {
            "prompt": row["instruction"],
            "chosen": dialogue(row),
            "rejected": dialogue({**row, "output": "No."}),
        }
        for row in SUMS
    ]
    texts = [
        {"chosen": f"\n\nHuman: {row['instruction']}\n\nAssistant: {row['output']}", "rejected": "No."} for row in SUMS
    ]
    return {
        "yahma/alpaca-cleaned": {"alpaca_data_cleaned.json": json.dumps(SUMS).encode()},
        "allenai/WildChat": {"data/train-00000-of-00001.parquet": parquet(*wild)},
        "mlabonne/orpo-dpo-mix-40k": {
            "data/train-00000-of-00001.parquet": parquet(*pairs[:32]),
            "data/test-00000-of-00001.parquet": parquet(*pairs[32:]),
        },
        "Anthropic/hh-rlhf": {
            "helpful-base/train.jsonl.gz": gzip.compress(jsonl(*texts)),
            "helpful-base/validation.jsonl.gz": gzip.compress(jsonl(*texts[:20])),
        },
        "trl-lib/Capybara": {"data/train-00000-of-00001.parquet": parquet(*chats)},
    }
