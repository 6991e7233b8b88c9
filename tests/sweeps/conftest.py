"""A training of a tiny model, for sweeps to vary."""

import json
from types import SimpleNamespace

import pytest

from marin_sft.steps import mixture, random_model, sft, tokenize
from marin_sft.training.fakes import word_tokenizer
from marin_sft.training.models import LlamaConfig

SHAPE = LlamaConfig(max_seq_len=64, hidden_dim=32, intermediate_dim=64, num_layers=1, num_heads=4, num_kv_heads=2)


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> SimpleNamespace:
    """`train(**settings)`, a step; and rows to evaluate on."""
    folder = tmp_path_factory.mktemp("parts")
    tokenizer, rows = str(folder / "tokenizer"), folder / "rows.jsonl"
    word_tokenizer([f"w{i}" for i in range(40)]).save_pretrained(tokenizer)
    chats = [[("user", f"w{i % 7}"), ("assistant", f"w{i % 7 + 1} w{i % 5}")] for i in range(40)]
    messages = [[{"role": role, "content": content} for role, content in chat] for chat in chats]
    rows.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in messages))
    tokens = {"a": tokenize("a", str(rows), tokenizer=tokenizer, validation=str(rows))}
    blend = mixture("m", tokens, weights={"a": 1}, seq_len=32)
    base = random_model("r", SHAPE, tokenizer=tokenizer)

    def train(**changes):
        fields = {"learning_rate": 1e-2, "train_batch_size": 4, "num_train_steps": 6, "steps_per_eval": 3, **changes}
        return sft(
            "base",
            mixture=blend,
            base_model=base,
            **{"precision": "fp32", "gradient_checkpointing": False, "steps_per_log": 1, **fields},
        )

    return SimpleNamespace(train=train, rows=str(rows), folder=folder, tokens=tokens, base=base)
