"""The kinds of findings, by the names that thresholds and outputs use, and what is kept of each: a count and samples.

A count is of rows: a row counts once for each kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from marin_sft.data.files import Json
from marin_sft.data.rows.source_rows import SourceRow
from marin_sft.redaction import REDACTED, has_token, redacted

FINDINGS = {
    "unusable_rows": "cannot be read as any known format",
    "repeated_tool_calls": "a tool is called again with equal arguments before the user speaks",
    "calls_without_results": "a tool is called, and the dialogue goes on without its result",
    "results_without_calls": "a tool answers that nothing called",
    "unanswered_thinking": "an answer that only thinks: it is never closed, or nothing follows",
    "empty_thinking": "an answer with an empty <think></think>",
    "empty_answers": "an answer without text and calls",
    "copied_prompts": "an answer that repeats the prompt",
    "role_order": "turns in an unusual order",
    "special_tokens_in_text": "a text holds a special token, such as <|im_end|>",
    "secrets": "a key or token of a known service",
    "duplicate_rows": "equal to an earlier row",
    "duplicate_prompts": "the prompt of an earlier row, with another answer",
    "near_duplicate_prompts": "nearly the prompt of an earlier row",
    "leaked_test_prompts": "holds a prompt of a test set",
    "script_outliers": "in another script than the component's other rows",
    "length_outliers": "far longer or shorter than the component's other rows",
    "equal_pairs": "chosen and rejected are the same",
    "swapped_pairs": "an earlier pair with chosen and rejected swapped",
}
"""What each finding is about a row."""

LONGER_CHOSEN = "longer_chosen"
"""The share of pairs whose chosen answer is longer: no finding, but a threshold may name it."""

THRESHOLDS = (*FINDINGS, LONGER_CHOSEN)

REPORT, SAMPLE_ROWS = "findings.json", "findings.jsonl"
"""Files in the output of a lint step."""

SAMPLES = 5
"""Of each finding in each component."""
_TEXT = 500  # characters


class Found(NamedTuple):
    """One finding in a row. text: the part of the row that shows it."""

    finding: str
    message: str
    text: str = ""


@dataclass
class Tally:
    """Findings of one component: how many rows, and the first few as samples."""

    counts: Counter[str] = field(default_factory=Counter)
    samples: list[Json] = field(default_factory=list)

    def add(self, source: SourceRow, found: Iterable[Found]) -> None:
        """Count a row with what was found in it; the first of each kind stands for it."""
        first: dict[str, Found] = {}
        for one in found:
            first.setdefault(one.finding, one)
        for name, one in first.items():
            self.counts[name] += 1
            if self.counts[name] <= SAMPLES:
                self.samples.append(sample(name, place(source), one.message, one.text))

    @staticmethod
    def together(parts: Iterable[Tally]) -> Tally:
        """All that `parts` found, in order."""
        whole, shown = Tally(), Counter[str]()
        for part in parts:
            whole.counts += part.counts
            for one in part.samples:
                shown[one["finding"]] += 1
                if shown[one["finding"]] <= SAMPLES:
                    whole.samples.append(one)
        return whole


def place(source: SourceRow) -> Json:
    """Where a row is. No full path: the output must not depend on locations."""
    return {"file": source.file.name, "line": source.line}


def sample(name: str, where: Mapping[str, object], message: str, text: str, other: Json | None = None) -> Json:
    """A finding in a row, for people. other: where the row is that it repeats."""
    found = {"finding": name, **where, "message": message, "text": excerpt(text)}
    return found if other is None else {**found, "other": other}


def excerpt(text: str) -> str:
    """The beginning of a text, without secrets."""
    if has_token(text):
        text = redacted(text)
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}..."


def around(text: str, start: int, end: int) -> str:
    """The surroundings of a place in a text."""
    if has_token(text):  # cut off, a secret might not be known for one
        return redacted(text)
    begin, stop = max(0, start - _TEXT // 4), end + _TEXT // 4
    return f"{'...' if begin else ''}{text[begin:stop]}{'...' if stop < len(text) else ''}"


def around_secret(text: str) -> str:
    """The surroundings of the first secret in a text, without the secret."""
    text = redacted(text)
    start = text.find(REDACTED)
    return around(text, start, start + len(REDACTED))
