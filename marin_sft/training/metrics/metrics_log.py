"""Counting tokens, and metrics.jsonl: one line per logged step, whole again after a resume.

tokens_per_second is logged for every objective, `{example_name}_per_second` for those that name their examples, as
pairs_per_second for DPO; both, and mfu with them, are of the time that training took, without evaluation, exports and
checkpoints.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from marin_sft.paths import file_system

NAME, SUMMARY = "metrics.jsonl", "metrics.json"
PER_SECOND = "_per_second"  # ends the names of figures of speed: another run of the same does not repeat them


@dataclass
class Meter:
    """Tokens since step 0 (padding not counted), over all devices, and the speed since the last reading."""

    tokens: int = 0
    trained_tokens: int = 0
    _read_at: float = field(init=False, default_factory=time.perf_counter)
    _new_tokens: int = field(init=False, default=0)
    _new_examples: int = field(init=False, default=0)

    def add(self, tokens: int, trained_tokens: int, examples: int) -> None:
        self.tokens += tokens
        self.trained_tokens += trained_tokens
        self._new_tokens += tokens
        self._new_examples += examples

    def counters(self) -> dict[str, int]:
        return {"tokens": self.tokens, "trained_tokens": self.trained_tokens}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done meanwhile is no training, and takes no time. To be entered when no step is under way."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._read_at += time.perf_counter() - start

    def per_second(self) -> tuple[float, float]:
        """Tokens and examples, since the last call, or since the meter was made; a first step counts with its
        compilation."""
        now = time.perf_counter()
        seconds, tokens, examples = now - self._read_at, self._new_tokens, self._new_examples
        self._read_at, self._new_tokens, self._new_examples = now, 0, 0
        return tokens / seconds, examples / seconds


class MetricsLog:
    """Lines appended to `{output_path}/metrics.jsonl`; without append (object stores), the file is rewritten by
    `flush`, which the loop calls before each checkpoint and at the end."""

    def __init__(self, output_path: str, lines: list[str], *, writes: bool = True) -> None:
        self._filesystem, self._directory = file_system(output_path)
        self._appends = type(self._filesystem).__name__ == "LocalFileSystem"
        self._lines = lines
        self._writes = writes  # one process of a job does
        self.flush()

    def add(self, metrics: Mapping[str, float | None]) -> None:
        line = json.dumps(metrics)
        self._lines.append(line)
        if self._appends:
            self._write("a", [line])

    def history(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of each line that has the figure, from the first step of the run on."""
        logged = map(json.loads, self._lines)
        return [(line["step"], line[name]) for line in logged if line.get(name) is not None]

    def flush(self) -> None:
        self._write("w", self._lines)

    def close(self) -> None:
        """Flush, and keep the figures of the last step in `metrics.json` for whoever wants the result only."""
        self.flush()
        last = json.loads(self._lines[-1])
        names = ("loss", "validation/loss", "step", "tokens", "trained_tokens")
        speeds = (name for name in last if name.endswith(PER_SECOND))
        summary = {name: last[name] for name in (*names, *speeds) if name in last}
        self._write("w", [json.dumps(summary)], SUMMARY)

    def _write(self, mode: str, lines: list[str], name: str = NAME) -> None:
        if not self._writes:
            return
        self._filesystem.makedirs(self._directory, exist_ok=True)
        with self._filesystem.open(f"{self._directory}/{name}", mode) as file:
            file.writelines(line + "\n" for line in lines)


def read_lines(output_path: str, up_to_step: int) -> list[str]:
    """The lines of an attempt's log whose step is at most `up_to_step`; a torn last line is left out."""
    filesystem, plain = file_system(output_path)
    if not filesystem.exists(f"{plain}/{NAME}"):
        return []
    with filesystem.open(f"{plain}/{NAME}", "r") as file:
        lines = [line.rstrip("\n") for line in file if line.endswith("\n")]
    return [line for line in lines if json.loads(line)["step"] <= up_to_step]
