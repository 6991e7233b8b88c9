"""How training shows its progress, in the style that the config names.

rich: as all steps: a bar on the launch's terminal, or lines in its log.
tqdm: also a tqdm bar in the attempt's log.
json: also a line of JSON for each logged step.
none: nothing. metrics.jsonl and trackers are written all the same.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from marin_sft import progress
from marin_sft.training.metrics.meter import PER_SECOND

STYLES = ("rich", "tqdm", "json", "none")
_WHOLE = ("lr", "learning_rate")  # too small for three decimals


class ProgressBar:
    """`shows`: True in one process of a job."""

    def __init__(self, style: str, total: int, *, shows: bool = True) -> None:
        self._style, self._total, self._shows = style, total, shows
        self._bar: Any = None

    def compiles(self, step: int) -> None:
        """After so many steps, the next one is compiled."""
        if self._style != "none" and step < self._total:
            progress.compiling(step, self._total, "steps")

    def update(self, metrics: Mapping[str, float | None]) -> None:
        """`metrics` of a step, including "step"."""
        if self._style == "none":
            return
        known = {name: value for name, value in metrics.items() if value is not None}
        shown = {name: value for name, value in known.items() if name in ("loss", "mfu") or name.endswith(PER_SECOND)}
        progress.aside(known)
        progress.report(metrics["step"] or 0, self._total, "steps", **shown)
        if self._shows and self._style == "json":
            print(json.dumps(rounded(metrics)), flush=True)
        elif self._shows and self._style == "tqdm":
            self._update_bar(int(metrics["step"] or 0), shown)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _update_bar(self, step: int, shown: Mapping[str, float]) -> None:
        if self._bar is None:
            from tqdm import tqdm  # type: ignore[import-untyped]

            self._bar = tqdm(total=self._total, initial=step - 1, unit="step", file=sys.stderr)
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()}, refresh=False)
        self._bar.update(step - self._bar.n)


def rounded(metrics: Mapping[str, float | None]) -> dict[str, float | None]:
    """Floats to three decimals, except the learning rate."""
    return {
        name: round(value, 3) if isinstance(value, float) and name not in _WHOLE else value
        for name, value in metrics.items()
    }
