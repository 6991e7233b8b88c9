"""One task of the step: the findings in some rows, and what must be known of each to compare it with all others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from marin_sft import progress
from marin_sft.data.chat.special_tokens import pattern_of
from marin_sft.data.formats import LmDatasetFormat
from marin_sft.data.lint.findings import Found, Tally, around, around_secret
from marin_sft.data.lint.leaks import TestPrompts, leaks_in
from marin_sft.data.lint.near import Sketches, sketches_of
from marin_sft.data.lint.said import TOOLS, Said, key_of, said_in
from marin_sft.data.lint.turns import copies, find_in_turns
from marin_sft.data.lint.words import codes_of, scripts_of, words_of
from marin_sft.data.messages.examples import BadRow
from marin_sft.data.messages.reading import examples_of
from marin_sft.data.rows.blocks import rows_of
from marin_sft.data.rows.dropped import ON_PURPOSE
from marin_sft.data.rows.source_rows import SourceRow, Span
from marin_sft.redaction import has_token

CHAT_TOKENS = frozenset(
    "<|im_start|> <|im_end|> <|im_sep|> <|endoftext|> <|begin_of_text|> <|end_of_text|> <|start_header_id|> "
    "<|end_header_id|> <|eot_id|> <|eom_id|> <|python_tag|> <|user|> <|assistant|> <|system|> <|end|> "
    "<start_of_turn> <end_of_turn> <|start|> <|message|> <|channel|> <|return|> <|END_OF_TURN_TOKEN|> "
    "<|START_OF_TURN_TOKEN|> <｜end▁of▁sentence｜> <｜begin▁of▁sentence｜> <｜User｜> <｜Assistant｜> [/INST] "
    "[TOOL_CALLS] [AVAILABLE_TOOLS] <|header_start|> <|header_end|> <|eot|> <|endofprompt|>".split()
)
"""Tokens that mark turns in common chat formats. Those that are also HTML or prose, such as <s>, are left out."""

_KEYS = ("row_keys", "prompt_keys", "swapped_keys", "user_keys")
_AT_ONCE = 1 << 19  # characters
_OF_A_ROW = 100  # as many as a row without text counts for
_FEW_LETTERS = 10  # say nothing about the script


@dataclass(frozen=True)
class Block:
    """Work for one task. first: the number of its first row among the `total` rows of the component."""

    component: str
    format: LmDatasetFormat
    spans: tuple[Span, ...]
    first: int
    total: int
    special: frozenset[str]
    tests: dict[str, TestPrompts]
    leak_share: float


@dataclass
class Rows:
    """What is known of the rows of a component that hold text, a value for each.

    numbers: which row it is, counted from 0. row_keys, prompt_keys, swapped_keys: see `Said`. user_keys: equal for
    equal prompts. sizes: characters of the prompt, the answer and, for pairs, the rejected answer; -1 where there is
    none. scripts: the main one of each row, as an index of `script_names`.
    """

    numbers: np.ndarray
    row_keys: np.ndarray
    prompt_keys: np.ndarray
    swapped_keys: np.ndarray
    user_keys: np.ndarray
    sizes: np.ndarray
    scripts: np.ndarray
    sketches: Sketches

    @staticmethod
    def together(parts: list[Rows]) -> Rows:
        """All of `parts`, which is emptied: so no value but those of one kind is in memory twice."""
        columns = {name: [getattr(part, name) for part in parts] for name in (*_KEYS, "numbers", "sizes", "scripts")}
        sketches = [part.sketches for part in parts]
        parts.clear()
        arrays = {name: np.concatenate(columns.pop(name)) for name in list(columns)}
        return Rows(**arrays, sketches=Sketches.together(sketches))


@dataclass
class Linted:
    """The result of a task. leaked: numbers of test prompts that some row holds, by test set.

    textless: rows of ready tokens, which have no text to look at.
    """

    rows: Rows
    tally: Tally
    textless: int
    leaked: dict[str, set[int]]


def lint_rows(block: Block) -> Linted:
    found = _Collector(block)
    for number, source in enumerate(rows_of(block.spans), block.first):
        found.add(number, source)
    return found.result()


def row_findings(row: object, format: LmDatasetFormat, special: re.Pattern[str]) -> tuple[list[Said], list[Found]]:
    """What the examples of a row say, and all findings that need no other row."""
    try:
        if isinstance(row, BadRow):
            raise row
        examples = examples_of(row, format)
    except BadRow as bad:
        name = "equal_pairs" if bad.reason == "identical_pair" else "unusable_rows"
        skipped = name == "unusable_rows" and bad.reason in ON_PURPOSE
        return [], [] if skipped else [Found(name, str(bad), "" if isinstance(row, BadRow) else _json(row))]
    said = [one for example in examples if (one := said_in(example)) is not None]
    return said, [found for one in said for found in _findings(one, special)]


def _findings(said: Said, special: re.Pattern[str]) -> Iterator[Found]:
    if said.turns:
        yield from find_in_turns(said.turns)
    for whose, text in said.texts:
        if token := special.search(text):
            yield Found("special_tokens_in_text", f"{token[0]!r} ({whose})", around(text, *token.span()))
        if has_token(text):
            yield Found("secrets", f"it has the form of a secret ({whose})", around_secret(text))
    if said.rejected is not None and said.answer is not None:
        plain = all(len(turn) == 2 for turn in said.turns)
        if plain and said.answer.split() == said.rejected.split():
            yield Found("equal_pairs", "chosen and rejected differ in spaces alone", said.answer)
    if not said.turns and said.answer is not None:
        if not said.answer.strip():
            yield Found("empty_answers", "it has no text", said.prompt)
        if copies(said.prompt, said.answer):
            yield Found("copied_prompts", "it repeats the prompt", said.answer)


def _json(row: object) -> str:
    try:
        return json.dumps(row, ensure_ascii=False, default=str)
    except RecursionError:
        return "(nested too deep to be shown)"


class _Collector:
    """Takes row after row. Texts are compared by their words in batches, which is many times faster."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.special = pattern_of(block.special)
        self.tally, self.textless = Tally(), 0
        self.leaked: dict[str, set[int]] = {name: set() for name in block.tests}
        self.waiting: list[tuple[SourceRow, list[Found]]] = []
        self.texts: list[tuple[int, Said, list[Found]]] = []  # of those that have any
        self.characters = 0
        self.parts: list[Rows] = []

    def add(self, number: int, source: SourceRow) -> None:
        said, found = row_findings(source.row, self.block.format, self.special)
        self.waiting.append((source, found))
        self.textless += not said and not found
        self.characters += _OF_A_ROW
        if said:
            self.texts.append((number, said[0], found))
            self.characters += sum(len(text) for _, text in said[0].texts)
        if self.characters >= _AT_ONCE:
            self._compare()
            progress.report(number + 1, self.block.total, f"{self.block.component} rows")

    def result(self) -> Linted:
        self._compare()
        return Linted(Rows.together(self.parts), self.tally, self.textless, self.leaked)

    def _compare(self) -> None:
        all_said = [said for _, said, _ in self.texts]
        prompts, others = codes_of([said.prompt for said in all_said]), codes_of(list(map(_not_of_user, all_said)))
        words, other_words = words_of(prompts), None
        for name, index in self.block.tests.items():
            other_words = other_words or words_of(others)
            for leak in leaks_in(index, words, other_words, self.block.leak_share):
                self.leaked[name].add(leak.prompt)
                what = f"{leak.share:.0%} of the words of prompt {leak.prompt + 1} of {name}"
                self.texts[leak.text][2].append(Found("leaked_test_prompts", what, all_said[leak.text].prompt))
        for source, found in self.waiting:
            self.tally.add(source, found)
        sizes = [(len(s.prompt), *(-1 if t is None else len(t) for t in (s.answer, s.rejected))) for s in all_said]
        keys = [(s.row_key, s.prompt_key, s.swapped_key, key_of([s.prompt])) for s in all_said]
        columns = dict(zip(_KEYS, np.array(keys, np.uint64).reshape(-1, len(_KEYS)).T, strict=True))
        self.parts.append(
            Rows(
                numbers=np.array([number for number, *_ in self.texts], np.int64),
                sizes=np.array(sizes, np.int32).reshape(-1, 3),
                scripts=_main_script(scripts_of(prompts) + scripts_of(others)),
                sketches=sketches_of(words),
                **columns,
            )
        )
        self.waiting, self.texts, self.characters = [], [], 0


def _main_script(letters: np.ndarray) -> np.ndarray:
    """The script of most letters of each text; 0 for texts with few letters."""
    most = letters.argmax(axis=1)
    most[letters.sum(axis=1) < _FEW_LETTERS] = 0
    return most.astype(np.int16)


def _not_of_user(said: Said) -> str:
    return "\n".join(text for whose, text in said.texts if whose not in ("user", "prompt", "text", TOOLS))
