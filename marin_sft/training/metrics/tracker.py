"""What a tracker is, and what it receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from marin_sft.training.models.model_config import Fields

if TYPE_CHECKING:
    import numpy as np

Histograms = Mapping[str, "tuple[np.ndarray, np.ndarray]"]
"""By name: float counts of n bins, and their n + 1 edges."""


@dataclass(frozen=True)
class Run:
    """What a tracker needs to know about a run: its name, the plain fields of its config, where its attempt writes.

    resumed: the tracker's own `state` from the checkpoint that the run resumes. {}: the run is new.
    """

    name: str
    config: Mapping[str, object]
    output_path: str
    resumed: Fields


class Tracker(Protocol):
    """A tracker that has started. Any method may raise: then it is dropped, and the others go on."""

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...
    def log_histograms(self, step: int, histograms: Histograms) -> None: ...
    def state(self) -> Fields:
        """JSON values, which become `resumed` in a run that resumes here."""
        ...

    def close(self, *, failed: bool) -> None: ...


class TrackerConfig(Protocol):
    @property
    def kind(self) -> str: ...
    def start(self, run: Run) -> Tracker: ...
