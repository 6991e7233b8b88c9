"""New embeddings for named tokens, which the base model never learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from marin_sft.errors import TrainingError
from marin_sft.training.models.model_directory import ModelDirectory, opened

MATRICES = ("model.embed_tokens.weight", "lm_head.weight")
TRUNCATION = 3.0  # standard deviations


def token_ids(model: ModelDirectory | str, tokens: Sequence[str], setting: str = "reinit_tokens") -> list[int]:
    """The ids of tokens in the tokenizer of a Hugging Face model directory. `setting`: where they are named.

    Raises:
        TrainingError: the tokenizer has no such token.
    """
    if not tokens:
        return []
    model = opened(model)
    vocabulary = model.tokenizer().get_vocab()
    unknown = [token for token in tokens if token not in vocabulary]
    if unknown:
        raise TrainingError(
            f"{setting}: got {unknown}, expected tokens of the tokenizer in {model.path}; "
            "new ones are added by add_tokens of marin_sft.steps"
        )
    return [vocabulary[token] for token in tokens]


def with_new_rows(tensors: Mapping[str, np.ndarray], ids: Sequence[int], seed: int) -> dict[str, np.ndarray]:
    """`tensors` of a model by name, with new rows for the tokens `ids` in the embeddings, and in the head if it is
    not tied. Each dimension is drawn from a normal distribution with the mean and standard deviation of the other rows,
    truncated at three standard deviations.
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
