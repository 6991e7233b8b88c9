"""The log-probabilities that a `reference_logprobs` step wrote, by pair."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from marin_sft.data.files import read_array
from marin_sft.errors import DataError


def logps_path(output_path: str, component: str, split: str) -> str:
    return f"{output_path}/{component}/{split}/logps.npy"


class References:
    """float32[..., 4] of pairs: see `marin_sft.training.reference`. `components`: in the order of `PairBatch.pairs`."""

    def __init__(self, path: str, components: Mapping[str, int], split: str) -> None:
        """`components`: how many pairs the mixture has of each.

        Raises:
            DataError: another number of pairs: the reference was computed on another mixture.
        """
        self._logps = []
        for name, pairs in components.items():
            found = read_array(logps_path(path, name, split))
            if len(found) != pairs:
                raise DataError(
                    f"{path}: {len(found)} pairs of {name!r}, expected {pairs}: the reference was computed on another "
                    "mixture; compute it on the one that is trained on"
                )
            self._logps.append(found)

    def of(self, pairs: np.ndarray) -> np.ndarray:
        """float32[..., 4] of `pairs` int[..., 2], (component, number) each; 0 where there is none (-1)."""
        flat = pairs.reshape(-1, 2)
        found = np.zeros((len(flat), 4), np.float32)
        for component, logps in enumerate(self._logps):
            there = (flat[:, 0] == component) & (flat[:, 1] >= 0)
            found[there] = logps[flat[there, 1]]
        return found.reshape(*pairs.shape[:-1], 4)
