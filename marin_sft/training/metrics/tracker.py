"""What a tracker is, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

Histograms = Mapping[str, "tuple[np.ndarray, np.ndarray]"]
"""By name: float counts of n bins, and their n + 1 edges."""


@dataclass(frozen=True)
class Run:
    """What a tracker is told of a run: its name, the plain fields of its config, where its attempt writes.

    resumed: the tracker's own `state`, as it was with the checkpoint that the run goes on from; {}: it starts.
    """

    name: str
    config: Mapping[str, Any]
    output_path: str
    resumed: Mapping[str, Any]


class Tracker(Protocol):
    """One that has started. Any method may raise: then it is closed and the others go on."""

    def log(self, step: int, figures: Mapping[str, float]) -> None: ...
    def log_histograms(self, step: int, histograms: Histograms) -> None: ...
    def state(self) -> dict[str, Any]:
        """JSON values, for the `resumed` of the run that goes on from here."""
        ...

    def close(self, *, failed: bool) -> None: ...


class TrackerConfig(Protocol):
    @property
    def kind(self) -> str: ...
    def start(self, run: Run) -> Tracker: ...
