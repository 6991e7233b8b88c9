"""The rows that a step drops: how many for which reason, and a few of each to look at."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from marin_sft.data.files import write_json_lines
from marin_sft.data.messages.examples import BadRow
from marin_sft.data.rows.row_files import SourceRow

SAMPLES_PER_REASON = 5
SAMPLE_CHARACTERS = 2000


@dataclass
class Dropped:
    """`counts` by reason; `samples`: the first rows of each reason, in order."""

    counts: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, source: SourceRow, bad: BadRow, **where: str) -> None:
        """Count one row; `where` is kept with its sample."""
        self.counts[bad.reason] += 1
        if self.counts[bad.reason] <= SAMPLES_PER_REASON:
            self.samples.append({**where, **_sample(source, bad)})

    @staticmethod
    def together(parts: Iterable[Dropped]) -> Dropped:
        """What `parts`, in order, dropped."""
        whole, shown = Dropped(), Counter[str]()
        for part in parts:
            whole.counts += part.counts
            for sample in part.samples:
                shown[sample["reason"]] += 1
                if shown[sample["reason"]] <= SAMPLES_PER_REASON:
                    whole.samples.append(sample)
        return whole


def write_dropped(directory: str, parts: Iterable[Dropped]) -> None:
    """Write the samples of `parts` to `{directory}/dropped.jsonl`; nothing when no row was dropped."""
    samples = [sample for part in parts for sample in part.samples]
    if samples:
        write_json_lines(f"{directory}/dropped.jsonl", samples)


def _sample(source: SourceRow, bad: BadRow) -> dict[str, Any]:
    """What a person needs to find and judge a dropped row. No full path: the output must not depend on places."""
    try:
        text = "" if isinstance(source.row, BadRow) else json.dumps(source.row, ensure_ascii=False, default=str)
    except RecursionError:
        text = "(nested too deep to be shown)"
    return {
        "file": source.file.name,
        "line": source.line,
        "reason": bad.reason,
        "message": bad.message,
        "row": text[:SAMPLE_CHARACTERS],
    }
