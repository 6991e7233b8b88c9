"""Chat rows to a token cache with one worker, compared with the bare tokenizer on the same text.

    python benchmarks/tokenize_rows.py [--tokenizer DIRECTORY] [--data FILE] [--rows N]

Without --tokenizer and --data: rows of three exchanges from a fixed vocabulary, and a tokenizer trained on them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGET = 0.85
_BATCH = 256


@dataclass(frozen=True)
class Measured:
    """Seconds of the best of several alternating rounds: the tokenize step, and `encode_batch_fast`."""

    rows: int
    tokens: int
    step_seconds: float
    tokenizer_seconds: float

    @property
    def ratio(self) -> float:
        """The speed of the step relative to the bare tokenizer."""
        return self.tokenizer_seconds / self.step_seconds

    def text(self) -> str:
        rates = f"{self.rows / self.step_seconds:,.0f} rows/s, {self.tokens / self.step_seconds:,.0f} tokens/s"
        bare = f"{self.tokens / self.tokenizer_seconds:,.0f} tokens/s"
        verdict = "holds" if self.ratio >= TARGET else "MISSED"
        return f"tokenize: {rates}; encode_batch_fast: {bare}; ratio {self.ratio:.2f}, at least {TARGET}: {verdict}"


def measure(tokenizer: str, data: str, rounds: int = 3) -> Measured:
    """Tokenize the messages rows of `data`, a JSON-lines file, with the tokenizer in a directory. One core."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from marin_sft.data.tokenize import TokenizeConfig, tokenize
    from marin_sft.data.tokenizer import load_tokenizer

    with open(data) as file:
        dialogues = [json.loads(line)["messages"] for line in file]
    loaded = load_tokenizer(tokenizer)
    texts: list[str] = [loaded.apply_chat_template(messages, tokenize=False) for messages in dialogues]
    backend: Any = loaded.backend_tokenizer
    bare, step, tokens = [], [], 0
    with tempfile.TemporaryDirectory() as directory:
        for round in range(rounds + 1):  # the first one warms up: imports, compiled templates, the tokenizer's cache
            begun = time.perf_counter()
            batches = (texts[i : i + _BATCH] for i in range(0, len(texts), _BATCH))
            tokens = sum(
                len(e) for batch in batches for e in backend.encode_batch_fast(batch, add_special_tokens=False)
            )
            bare.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            tokenize(TokenizeConfig((data,), tokenizer, output_path=f"{directory}/{round}"))
            step.append(time.perf_counter() - begun)
    return Measured(len(texts), tokens, min(step[1:]), min(bare[1:]))


def write_rows(path: str, count: int) -> None:
    """Dialogues of three exchanges of 20 to 200 words."""
    chance = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(chance.choices(letters, range(26, 0, -1), k=chance.randint(2, 9))) for _ in range(20_000)]
    with open(path, "w") as file:
        for _ in range(count):
            texts = [" ".join(chance.choices(words, k=chance.randint(20, 200))) for _ in range(6)]
            messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
            file.write(json.dumps({"messages": messages}) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="a directory")
    parser.add_argument("--data", help="a JSON-lines file of messages rows")
    parser.add_argument("--rows", type=int, default=4000, help="how many to generate without --data")
    arguments = parser.parse_args()
    from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer

    with tempfile.TemporaryDirectory() as directory:
        data = arguments.data or str(Path(directory, "rows.jsonl"))
        if not arguments.data:
            write_rows(data, arguments.rows)
        tokenizer = arguments.tokenizer or f"{directory}/tokenizer"
        if not arguments.tokenizer:
            train_tokenizer(TrainTokenizerConfig((data,), vocab_size=16_000, output_path=tokenizer))
        measured = measure(tokenizer, data)
    print(measured.text())
    return 0 if measured.ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
