"""Embeddings of named tokens made anew, for tokens that the base model never learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from marin_sft.errors import TrainingError
from marin_sft.training.models.model_directory import ModelDirectory, opened

MATRICES = ("model.embed_tokens.weight", "lm_head.weight")
TRUNCATION = 3.0  # standard deviations


def token_ids(model: ModelDirectory | str, tokens: Sequence[str]) -> list[int]:
    """Ids of tokens by the tokenizer in a Hugging Face model directory.

    Raises:
        TrainingError: for a text that is no token of it.
    """
    model = opened(model)
    vocabulary = model.tokenizer().get_vocab()
    unknown = [token for token in tokens if token not in vocabulary]
    if unknown:
        raise TrainingError(f"reinit_tokens: {unknown} are no tokens of the tokenizer in {model.path}; expected such")
    return [vocabulary[token] for token in tokens]


def with_new_rows(tensors: dict[str, Any], ids: Sequence[int], seed: int) -> dict[str, Any]:
    """`tensors` of a model by name, where the rows of tokens `ids` in the embeddings, and in the head if it has its
    own, are drawn anew: in each dimension normal, with mean and standard deviation of the other rows, truncated at
    three of them.
    """
    changed = dict(tensors)
    for name in MATRICES:
        if name in tensors:
            matrix = np.array(tensors[name], np.float32)
            others = np.delete(matrix, ids, axis=0)
            for id in ids:
                rng = np.random.default_rng((seed, id, MATRICES.index(name)))
                matrix[id] = others.mean(0) + others.std(0) * _truncated_normal(rng, matrix.shape[1])
            changed[name] = matrix
    return changed


def _truncated_normal(rng: np.random.Generator, size: int) -> np.ndarray:
    drawn = rng.normal(size=size)
    while (outside := np.abs(drawn) > TRUNCATION).any():
        drawn[outside] = rng.normal(size=outside.sum())
    return drawn
