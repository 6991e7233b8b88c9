"""The log-probabilities that a `reference_logprobs` step wrote, by pair."""

from __future__ import annotations

import numpy as np

from marin_sft.data.files import read_array
from marin_sft.data.packing.packed_mixture import PackedMixture
from marin_sft.errors import DataError


def logps_path(output_path: str, component: str, split: str) -> str:
    return f"{output_path}/{component}/{split}/logps.npy"


class References:
    """float32[..., 4] for the pairs of a split of a mixture: see `marin_sft.training.reference`.

    `path`: the output of the reference step.

    Raises:
        DataError: the numbers of pairs differ, because the reference was computed on another mixture.
    """

    def __init__(self, path: str, mixture: PackedMixture, split: str) -> None:
        about = mixture.about["components"]
        self._logps = {
            number: _read(path, name, split, about[name][split]["pairs"])
            for number, name in enumerate(mixture.components)
            if split in about[name]
        }

    def of(self, pairs: np.ndarray) -> np.ndarray:
        """float32[..., 4] for `pairs` int[..., 2], (component, number) each; 0 for padding (-1)."""
        flat = pairs.reshape(-1, 2)
        found = np.zeros((len(flat), 4), np.float32)
        for number, logps in self._logps.items():
            there = (flat[:, 0] == number) & (flat[:, 1] >= 0)
            found[there] = logps[flat[there, 1]]
        return found.reshape(*pairs.shape[:-1], 4)


def _read(path: str, component: str, split: str, pairs: int) -> np.ndarray:
    logps = read_array(logps_path(path, component, split))
    if len(logps) != pairs:
        raise DataError(
            f"{path}: {len(logps)} pairs of {component!r}, expected {pairs}: the reference was computed on another "
            "mixture; compute it on the mixture that you train on"
        )
    return logps
