"""The rows that a step drops: how many for which reason, a few of each to look at, and when they are too many."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from marin_sft.data.files import write_json_lines
from marin_sft.data.messages.examples import BadRow
from marin_sft.data.rows.row_files import SourceRow
from marin_sft.errors import DataError

SAMPLES_PER_REASON = 5
SAMPLE_CHARACTERS = 2000
DROPPED = "dropped.jsonl"
ON_PURPOSE = frozenset({"identical_pair", "rated_bad"})
"""Reasons for which good data has many rows dropped: they do not count against `max_dropped`."""
MEND = "Then mend the rows, or say with shape=, columns= and role_map= of the format what they hold"
_SHOWN, _SHOWN_CHARACTERS = 3, 400


@dataclass
class Dropped:
    """`counts` by reason; `samples`: the first rows of each reason, in order; `paths` of their files, by name."""

    counts: Counter[str] = field(default_factory=Counter)
    samples: list[dict[str, Any]] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)

    def add(self, source: SourceRow, bad: BadRow, **where: str) -> None:
        """Count one row; `where` is kept with its sample."""
        self.counts[bad.reason] += 1
        if self.counts[bad.reason] <= SAMPLES_PER_REASON:
            self.samples.append({**where, **_sample(source, bad)})
            self.paths.setdefault(source.file.name, source.file.path)

    @staticmethod
    def together(parts: Iterable[Dropped]) -> Dropped:
        """What `parts`, in order, dropped."""
        whole, shown = Dropped(), Counter[str]()
        for part in parts:
            whole.counts += part.counts
            whole.paths = part.paths | whole.paths
            for sample in part.samples:
                shown[sample["reason"]] += 1
                if shown[sample["reason"]] <= SAMPLES_PER_REASON:
                    whole.samples.append(sample)
        return whole


def write_dropped(directory: str, parts: Iterable[Dropped]) -> None:
    """Write the samples of `parts` to `{directory}/dropped.jsonl`; nothing when no row was dropped."""
    samples = [sample for part in parts for sample in part.samples]
    if samples:
        write_json_lines(f"{directory}/{DROPPED}", samples)


def check_dropped(rows: int, dropped: Dropped, max_dropped: float, where: str, directory: str, mend: str) -> None:
    """Raises DataError when no row is left, or when more than the share `max_dropped` was dropped by mistake.

    Args:
        where: what the rows are of. directory: where `write_dropped` writes. mend: what the user can do about it.
    """
    lost = dropped.counts.total()
    if not rows:
        raise DataError(f"{where}: 0 of 0 rows dropped (there were no rows); expected at least one")
    by_mistake = sum(count for reason, count in dropped.counts.items() if reason not in ON_PURPOSE)
    if rows == lost or by_mistake > max_dropped * rows:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.counts.most_common())
        shown = "".join(f"\n  {_line(dropped, sample)}" for sample in _telling(dropped))
        file = next(iter(dropped.paths.values()), "FILE")
        raise DataError(
            f"{where}: {lost} of {rows} rows dropped ({reasons}); expected at least one row kept and at most "
            f"{max_dropped:.1%} dropped, as in{shown}\nMore of them are in {directory}/{DROPPED}. See what becomes of "
            f"rows with `marin-sft preview --data {shlex.quote(file)} --tokenizer T`. {mend}, or raise max_dropped"
        )


def _telling(dropped: Dropped) -> list[dict[str, Any]]:
    """A few samples: the first of each of the commonest reasons, then others."""
    order = [reason for reason, _ in dropped.counts.most_common()]
    nth: Counter[str] = Counter()
    ranked = []
    for sample in dropped.samples:
        ranked.append((sample["reason"] in ON_PURPOSE, nth[sample["reason"]], order.index(sample["reason"]), sample))
        nth[sample["reason"]] += 1
    return [sample for *_, sample in sorted(ranked, key=lambda entry: entry[:3])[:_SHOWN]]


def _line(dropped: Dropped, sample: dict[str, Any]) -> str:
    text = f"{sample['reason']}: {sample['message']}"
    short = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
    return f"{dropped.paths[sample['file']]}:{sample['line']}: {short}"


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
