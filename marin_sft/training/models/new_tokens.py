"""Tokens added to a model and its tokenizer, with embeddings that training can start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from marin_sft.data.tokenizer import vocabulary_size
from marin_sft.errors import TrainingError
from marin_sft.training.models.families import check_family
from marin_sft.training.models.model_directory import (
    SENTENCEPIECE,
    ModelDirectory,
    save_tokenizer,
    write_json,
    write_tensors,
    writing,
)
from marin_sft.training.models.new_tokens_config import NEW_TOKENS, AddTokensConfig, check_new
from marin_sft.training.models.reinit import MATRICES, with_new_rows
from marin_sft.training.models.stored_tensors import LazyTensors, shapes_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EMBEDDING, HEAD = MATRICES
_MULTIPLE = 128


def add_tokens(config: AddTokensConfig) -> None:
    """Write the model of `config` with the new tokens: its tokenizer, embeddings, `vocab_size`, and `NEW_TOKENS`.

    All other weights and fields stay as they are. The new embeddings are drawn as those of `reinit_tokens`.

    Raises:
        ConfigError: the tokenizer already has one of the tokens.
        TrainingError: the model cannot be trained here, or no tensor of it is an embedding.
    """
    base = ModelDirectory(config.model)
    tokenizer = base.tokenizer()
    new = _added(tokenizer, config, base.path)
    check_family(base.config)
    size = _padded(base.config["vocab_size"], vocabulary_size(tokenizer))
    stored = base.json("config.json")
    assert stored is not None
    tensors = base.tensors()
    tied = base.whole_config["tie_word_embeddings"]
    matrices = (EMBEDDING,) if tied else MATRICES
    missing = [name for name in matrices if name not in tensors]
    if missing:
        raise TrainingError(f"{base.path}: no tensor {missing[0]}; expected the weights that config.json describes")
    copied = [name for name in tensors if not (tied and name == HEAD)]  # a copy, kept by some writers
    generation, sentencepiece = base.json("generation_config.json"), base.file(SENTENCEPIECE)
    with writing(config.output_path) as local:
        write_json(local, "config.json", {**stored, "vocab_size": size})
        write_tensors(local, _Resized(tensors, copied, matrices, size, list(new.values()), config.seed))
        if generation is not None:
            write_json(local, "generation_config.json", generation)
        save_tokenizer(local, tokenizer)
        if sentencepiece is not None:
            Path(local, SENTENCEPIECE).write_bytes(sentencepiece)
        write_json(local, NEW_TOKENS, {"tokens": new})
    print(f"{len(new)} tokens added; vocab_size {base.config['vocab_size']} -> {size}")


def _added(tokenizer: PreTrainedTokenizerFast, config: AddTokensConfig, path: str) -> dict[str, int]:
    """Add the tokens to `tokenizer`; their ids by token."""
    from tokenizers import AddedToken

    check_new(path, {*config.tokens, *config.special_tokens} & tokenizer.get_vocab().keys())
    kinds = ((config.tokens, False), (config.special_tokens, True))
    for tokens, special in kinds:
        tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens], special)
    vocabulary = tokenizer.get_vocab()
    return {token: vocabulary[token] for tokens, _ in kinds for token in tokens}


def _padded(rows: int, tokens: int) -> int:
    """The number of rows for so many tokens. A model with `rows` that are enough keeps them; else, they stay divisible
    by the powers of 2 that divide `rows`, so that as many devices can share them."""
    multiple = min(rows & -rows, _MULTIPLE)
    return rows if tokens <= rows else -(-tokens // multiple) * multiple


class _Resized(LazyTensors):
    """`tensors` named in `names`, those in `matrices` with `size` rows. Rows of the ids `new` are drawn with `seed`.

    Further rows, which no token has, are the mean of the others: then their logit is the mean logit, so none of them is
    sampled with a probability above 1 / vocabulary (https://nlp.stanford.edu/~johnhew/vocab-expansion.html).
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        names: Sequence[str],
        matrices: Sequence[str],
        size: int,
        new: Sequence[int],
        seed: int,
    ) -> None:
        self._tensors, self._names, self._matrices = tensors, tuple(names), matrices
        self._size, self._new, self._seed = size, new, seed

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._tensors[name]
        if name not in self._matrices:
            return tensor
        added = max(self._size - len(tensor), 0)
        whole = np.concatenate([tensor, np.zeros((added, tensor.shape[1]), tensor.dtype)])
        unused = sorted({*range(len(tensor), len(whole))} - {*self._new})
        rows = with_new_rows({name: whole}, sorted({*self._new, *unused}), self._seed)[name]
        rows[unused] = np.delete(whole, [*self._new, *unused], axis=0).mean(0, dtype=np.float32)
        return rows.astype(tensor.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {name: shape for name, shape in shapes_of(self._tensors).items() if name in self._names}
        return {name: (self._size, *shape[1:]) if name in self._matrices else shape for name, shape in shapes.items()}
