"""The rows that a step drops: counts and samples by reason, and when they are too many."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, zip_longest

from marin_sft.data.files import Json, write_json_lines
from marin_sft.data.formats import LmDatasetFormat
from marin_sft.data.messages.examples import BadRow
from marin_sft.data.preview_command import preview_command
from marin_sft.data.rows.source_rows import SourceRow
from marin_sft.errors import DataError

SAMPLES_PER_REASON = 5
SAMPLE_CHARACTERS = 2000
DROPPED = "dropped.jsonl"
ON_PURPOSE = frozenset({"identical_pair", "not_trained", "rated_bad"})
"""Reasons that are normal in good data. They do not count against `max_dropped`."""
MEND = "fix the rows, or describe them with shape=, columns= and role_map= of the format"
_SHOWN, _SHOWN_CHARACTERS, _SHOWN_ROW = 3, 300, 200


@dataclass
class Dropped:
    """Dropped rows: counts by reason, the first few of each reason as samples, and the paths of the samples' files."""

    counts: Counter[str] = field(default_factory=Counter)
    samples: list[Json] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def add(self, source: SourceRow, bad: BadRow, **where: str) -> None:
        """Count one row; `where` is kept with its sample."""
        self.counts[bad.reason] += 1
        if self.counts[bad.reason] <= SAMPLES_PER_REASON:
            self.samples.append({**where, **_sample(source, bad)})
            self.paths.append(source.file.path)

    def to_json(self) -> Json:
        return {"counts": list(self.counts.items()), "samples": self.samples, "paths": self.paths}

    @staticmethod
    def from_json(value: Json) -> Dropped:
        return Dropped(Counter(dict(value["counts"])), value["samples"], value["paths"])

    @staticmethod
    def together(parts: Iterable[Dropped]) -> Dropped:
        """All that `parts` dropped, in order."""
        whole, shown = Dropped(), Counter[str]()
        for part in parts:
            whole.counts += part.counts
            for sample, path in zip(part.samples, part.paths, strict=True):
                shown[sample["reason"]] += 1
                if shown[sample["reason"]] <= SAMPLES_PER_REASON:
                    whole.samples.append(sample)
                    whole.paths.append(path)
        return whole


def write_dropped(directory: str, parts: Iterable[Dropped]) -> None:
    """Write the samples of `parts` to `{directory}/dropped.jsonl`, if there are any."""
    samples = [sample for part in parts for sample in part.samples]
    if samples:
        write_json_lines(f"{directory}/{DROPPED}", samples)


def check_dropped(
    rows: int,
    dropped: Dropped,
    max_dropped: float,
    where: str,
    directory: str,
    mend: str,
    tokenizer: str = "T",
    format: LmDatasetFormat | None = None,
) -> None:
    """Raises DataError if no row is left, or if more than the share `max_dropped` was dropped by mistake.

    Args:
        where: what the rows belong to, for the message.
        directory: where `write_dropped` writes.
        mend: what the user can do about it.
        tokenizer, format: for the command that shows rows.

    Prints a line about dropped rows that are few enough.
    """
    lost = dropped.counts.total()
    if not rows:
        raise DataError(f"{where}: 0 of 0 rows dropped (there were no rows); expected at least one")
    by_mistake = sum(count for reason, count in dropped.counts.items() if reason not in ON_PURPOSE)
    reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.counts.most_common())
    if rows == lost or by_mistake > max_dropped * rows:
        look = preview_command(dropped.paths[0], tokenizer, format)
        raise DataError(
            f"{where}: {lost} of {rows} rows dropped ({reasons}); expected at least one row kept and at most "
            f"{max_dropped:.1%} dropped, for example{''.join(_telling(dropped))}\n"
            f"{_first_row(dropped.samples[0])}More of them are in {directory}/{DROPPED}. To see how rows are read, run "
            f"`{look}`. Then {mend}, or raise max_dropped"
        )
    if lost:
        print(f"{where}: {lost} of {rows} rows dropped ({reasons}); see {directory}/{DROPPED}", file=sys.stderr)


def _telling(dropped: Dropped) -> list[str]:
    """A few different lines: first one for each of the most common reasons, then more."""
    lines: dict[str, list[str]] = {reason: [] for reason, _ in dropped.counts.most_common()}
    seen: set[str] = set()
    for sample, path in zip(dropped.samples, dropped.paths, strict=True):
        text = f"{sample['reason']}: {sample['message']}"
        if text not in seen:
            seen.add(text)
            short = _short(text, _SHOWN_CHARACTERS)
            lines[sample["reason"]].append(f"\n  {path}:{sample['line']}: {short}")
    by_mistake, on_purpose = ([lines[r] for r in lines if (r in ON_PURPOSE) is which] for which in (False, True))
    in_turn = chain(zip_longest(*by_mistake), zip_longest(*on_purpose))
    return [line for turn in in_turn for line in turn if line][:_SHOWN]


def _first_row(sample: Json) -> str:
    return f"Line {sample['line']} is: {_short(sample['row'], _SHOWN_ROW)}. " if sample["row"] else ""


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _sample(source: SourceRow, bad: BadRow) -> Json:
    """What it takes to find and judge a dropped row. No full path: the output must not depend on locations."""
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
