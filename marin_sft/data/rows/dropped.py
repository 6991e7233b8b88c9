"""The rows that a step drops: how many for which reason, a few of each to look at, and when they are too many."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, zip_longest

from marin_sft.data.files import Json, write_json_lines
from marin_sft.data.messages.examples import BadRow
from marin_sft.data.rows.source_rows import SourceRow
from marin_sft.errors import DataError

SAMPLES_PER_REASON = 5
SAMPLE_CHARACTERS = 2000
DROPPED = "dropped.jsonl"
ON_PURPOSE = frozenset({"identical_pair", "not_trained", "rated_bad"})
"""Reasons for which good data has many rows dropped: they do not count against `max_dropped`."""
MEND = "Then mend the rows, or say with shape=, columns= and role_map= of the format what they hold"
_SHOWN, _SHOWN_CHARACTERS = 3, 300


@dataclass
class Dropped:
    """`counts` by reason; `samples`: the first rows of each reason, in order; `paths` of their files, in the same."""

    counts: Counter[str] = field(default_factory=Counter)
    samples: list[Json] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def add(self, source: SourceRow, bad: BadRow, **where: str) -> None:
        """Count one row; `where` is kept with its sample."""
        self.counts[bad.reason] += 1
        if self.counts[bad.reason] <= SAMPLES_PER_REASON:
            self.samples.append({**where, **_sample(source, bad)})
            self.paths.append(source.file.path)

    @staticmethod
    def together(parts: Iterable[Dropped]) -> Dropped:
        """What `parts`, in order, dropped."""
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
    """Write the samples of `parts` to `{directory}/dropped.jsonl`; nothing when no row was dropped."""
    samples = [sample for part in parts for sample in part.samples]
    if samples:
        write_json_lines(f"{directory}/{DROPPED}", samples)


def check_dropped(
    rows: int, dropped: Dropped, max_dropped: float, where: str, directory: str, mend: str, tokenizer: str = "T"
) -> None:
    """Raises DataError when no row is left, or when more than the share `max_dropped` was dropped by mistake.

    Args:
        where: what the rows are of. directory: where `write_dropped` writes. mend: what the user can do about it.
        tokenizer: to look at rows with.
    """
    lost = dropped.counts.total()
    if not rows:
        raise DataError(f"{where}: 0 of 0 rows dropped (there were no rows); expected at least one")
    by_mistake = sum(count for reason, count in dropped.counts.items() if reason not in ON_PURPOSE)
    if rows == lost or by_mistake > max_dropped * rows:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in dropped.counts.most_common())
        look = f"marin-sft preview --data {shlex.quote(dropped.paths[0])} --tokenizer {shlex.quote(tokenizer)}"
        raise DataError(
            f"{where}: {lost} of {rows} rows dropped ({reasons}); expected at least one row kept and at most "
            f"{max_dropped:.1%} dropped, as in{''.join(_telling(dropped))}\n"
            f"More of them are in {directory}/{DROPPED}. See what becomes of rows with `{look}`. {mend}, or raise "
            "max_dropped"
        )


def _telling(dropped: Dropped) -> list[str]:
    """A few lines that say different things: about the first row of each of the commonest reasons, then others."""
    lines: dict[str, list[str]] = {reason: [] for reason, _ in dropped.counts.most_common()}
    seen: set[str] = set()
    for sample, path in zip(dropped.samples, dropped.paths, strict=True):
        text = f"{sample['reason']}: {sample['message']}"
        if text not in seen:
            seen.add(text)
            short = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
            lines[sample["reason"]].append(f"\n  {path}:{sample['line']}: {short}")
    by_mistake, on_purpose = ([lines[r] for r in lines if (r in ON_PURPOSE) is which] for which in (False, True))
    in_turn = chain(zip_longest(*by_mistake), zip_longest(*on_purpose))
    return [line for turn in in_turn for line in turn if line][:_SHOWN]


def _sample(source: SourceRow, bad: BadRow) -> Json:
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
