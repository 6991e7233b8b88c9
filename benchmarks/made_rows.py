"""Rows generated from seeded text, so that a benchmark needs no files: chats, Alpaca rows and preference pairs.

Words follow a power law, as in natural language. Lengths are log-normal, with the means of published datasets.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

SYLLABLES = "ba con der est fi gra hou ing ju ka lo ment nor ou pre que ri st ta un ver wi xa yo zen".split()


class Writer:
    """Text of a fixed vocabulary. The same seed gives the same text."""

    def __init__(self, seed: int = 0) -> None:
        self.dice = random.Random(seed)
        self._words = list({"".join(self.dice.choices(SYLLABLES, k=self.dice.randint(1, 4))) for _ in range(30_000)})
        self._likelihood = np.cumsum([1 / (rank + 3) for rank in range(len(self._words))]).tolist()

    def text(self, mean: float) -> str:
        """`mean`: words, on average."""
        count = 1 + round(mean * self.dice.lognormvariate(-0.5, 1))
        said = self.dice.choices(self._words, cum_weights=self._likelihood, k=count)
        return f"{' '.join(said).capitalize()}."


def chat_rows(count: int, seed: int = 0) -> Iterator[str]:
    """JSON lines: dialogues of one to three exchanges, a few hundred tokens each."""
    writer = Writer(seed)
    dice = writer.dice
    for _ in range(count):
        messages = [{"role": "system", "content": "You are a helpful assistant."}] if dice.random() < 0.3 else []
        for _ in range(1 if dice.random() < 0.6 else dice.randint(2, 3)):
            messages += [
                {"role": "user", "content": writer.text(25)},
                {"role": "assistant", "content": writer.text(80)},
            ]
        yield json.dumps({"messages": messages}) + "\n"


def alpaca_rows(count: int = 1000, seed: int = 0) -> list[dict[str, str]]:
    writer = Writer(seed)
    return [{"instruction": writer.text(15), "input": "", "output": writer.text(145)} for _ in range(count)]


def preference_rows(count: int = 300, seed: int = 0) -> list[dict[str, Any]]:
    """Conversations and two answers, as in ShareGPT. A third of the prompts are long."""
    writer = Writer(seed)

    def turn(role: str, mean: float) -> dict[str, str]:
        return {"from": role, "value": writer.text(mean)}

    def row() -> dict[str, Any]:
        before = [turn("human", 60), turn("gpt", 180)] if writer.dice.random() < 1 / 3 else []
        return {
            "conversations": [*before, turn("human", 60)],
            "chosen": turn("gpt", 195),
            "rejected": turn("gpt", 205),
        }

    return [row() for _ in range(count)]
