"""metrics.jsonl, one line per logged step, complete after a resume too; metrics.json, the figures of the whole run."""

from __future__ import annotations

import json
from collections.abc import Mapping

from marin_sft import disk
from marin_sft.paths import file_system

NAME, SUMMARY = "metrics.jsonl", "metrics.json"
DIVERGED = 10
"""Training has diverged if the loss is more than this many times the first loss, and more than a nat above it."""


class MetricsLog:
    """Appends lines to `{output_path}/metrics.jsonl`. Object stores cannot append: there `flush` rewrites the file.
    The loop calls it before each checkpoint and at the end."""

    def __init__(self, output_path: str, lines: list[str], *, writes: bool = True) -> None:
        self._output_path = output_path
        self._filesystem, self._directory = file_system(output_path)
        self._appends = disk.is_local(self._filesystem)
        self._lines = lines
        self._writes = writes  # only one process of a job writes
        self.flush()

    def add(self, metrics: Mapping[str, float | None]) -> None:
        line = json.dumps(metrics)
        self._lines.append(line)
        if self._writes and self._appends:
            self._append(line)

    def history(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of each line that has the figure, since the first step of the run."""
        logged = map(json.loads, self._lines)
        return [(line["step"], line[name]) for line in logged if line.get(name) is not None]

    def flush(self) -> None:
        self._write(NAME, self._lines)

    def copy_to(self, directory: str) -> None:
        """Write all lines so far to `{directory}/metrics.jsonl` as well."""
        if self._writes:
            disk.write_whole(f"{directory}/{NAME}", "".join(line + "\n" for line in self._lines))

    def diverged(self, loss: float) -> float | None:
        """The first loss of the run if `loss` is far above it, else None."""
        first: float = json.loads(self._lines[0])["loss"] if self._lines else loss
        return first if first > 0 and loss > max(DIVERGED * first, first + 1) else None

    def close(self, figures: Mapping[str, float]) -> None:
        """Flush, and write the last step's figures and those of the whole run, `figures`, to `metrics.json`. The first
        loss is written too if the last one is far above it."""
        self.flush()
        last = json.loads(self._lines[-1])
        first = self.diverged(last["loss"])
        told = {**json.loads(self._lines[0]), **last, **({} if first is None else {"first_loss": first})}
        losses = ("loss", "first_loss", "before/validation/loss", "validation/loss")
        names = (*losses, "epoch", "step", "tokens", "trained_tokens")
        summary = {**{name: told[name] for name in names if name in told}, **figures}
        self._write(SUMMARY, [json.dumps(summary)])

    def _append(self, line: str) -> None:
        with self._filesystem.open(f"{self._directory}/{NAME}", "a") as file:
            file.write(line + "\n")

    def _write(self, name: str, lines: list[str]) -> None:
        if self._writes:
            disk.write_whole(f"{self._output_path}/{name}", "".join(line + "\n" for line in lines))


def read_lines(output_path: str, up_to_step: int) -> list[str]:
    """The lines of an attempt's log up to step `up_to_step`, without a torn last line."""
    filesystem, plain = file_system(output_path)
    if not filesystem.exists(f"{plain}/{NAME}"):
        return []
    with filesystem.open(f"{plain}/{NAME}", "r") as file:
        lines = [line.rstrip("\n") for line in file if line.endswith("\n")]
    return [line for line in lines if json.loads(line)["step"] <= up_to_step]
