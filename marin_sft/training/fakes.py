"""Small inputs for tests: a word tokenizer with a chat template, and handmade batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + ' ' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant ' }}{% endif %}"
)


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A transformers tokenizer that knows only these words, the chat roles, and
    <|pad|> (id 0), <|eos|> (1), <|start|> (2), <|end|> (3)."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<|pad|>", "<|eos|>", "<|start|>", "<|end|>"]
    vocab = dict.fromkeys([*special, "<|unknown|>", "user", "assistant", *words])
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocab)}, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0], eos_token=special[1])
    fast.add_special_tokens({"additional_special_tokens": special[2:]})
    fast.chat_template = CHAT_TEMPLATE
    return fast


@dataclass(frozen=True)
class FakeBatch:
    """Packed rows, see `loss.Batch`."""

    tokens: np.ndarray
    loss_weight: np.ndarray
    segment_ids: np.ndarray
    position_ids: np.ndarray

    @property
    def trained_tokens(self) -> int:
        return int(self.loss_weight.sum())


def pack(rows: Sequence[Sequence[Sequence[int]]], length: int) -> FakeBatch:
    """A batch with one row per list of documents, each document trained on all but its first token."""
    shape = (len(rows), length)
    batch = FakeBatch(
        np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    )
    for i, documents in enumerate(rows):
        start = 0
        for segment, document in enumerate(documents):
            end = start + len(document)
            batch.tokens[i, start:end] = document
            batch.loss_weight[i, start : end - 1] = 1.0
            batch.segment_ids[i, start:end] = segment
            batch.position_ids[i, start:end] = np.arange(len(document))
            start = end
    return batch


@dataclass(frozen=True)
class CountingBatches:
    """Training batches: each row packs runs of consecutive ids, of random length, with padding at the end."""

    vocab_size: int
    batch_size: int
    length: int
    rows_per_epoch: int = 64

    def batch(self, step: int, part: int = 0, parts: int = 1) -> FakeBatch:
        rng = np.random.default_rng(step)
        rows = [self._documents(rng) for _ in range(self.batch_size)]
        return pack(rows[part * len(rows) // parts : (part + 1) * len(rows) // parts], self.length)

    def trained_tokens(self, step: int) -> int:
        return self.batch(step).trained_tokens

    def _documents(self, rng: np.random.Generator) -> list[list[int]]:
        sizes = rng.integers(2, max(self.length // 2, 3), size=2)
        starts = rng.integers(0, self.vocab_size, size=2)
        return [
            [(int(start) + i) % self.vocab_size for i in range(size)] for start, size in zip(starts, sizes, strict=True)
        ]
