"""An example -> rows of tokens with masks.

Dialogue                    rendered by the chat template, see renderer.py
Text                        prompt and text tokenized as one, between a BOS (if the tokenizer itself puts one before
                            texts, or as `TextLmDatasetFormat.add_special_tokens` says) and an EOS, unless the text
                            already has them, not counting whitespace. Trained from the first token that holds a
                            character of the text, even if it straddles the prompt, to the EOS
Segments                    each piece separately, nothing added
Tokens                      as they are
Preference, TextPreference  two rows that share a prompt; what follows it is trained
Rated                       its dialogue, if it is good
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from marin_sft.data.chat.alignment import NOTHING, Aligner, Noted, Range, SpannedText, TokenRow
from marin_sft.data.chat.renderer import ChatRenderer
from marin_sft.data.formats import LmDatasetFormat, TextLmDatasetFormat, TrainOn
from marin_sft.data.messages.examples import (
    BadRow,
    Dialogue,
    Example,
    Message,
    Preference,
    Rated,
    Segments,
    Text,
    TextPreference,
    Tokens,
)
from marin_sft.data.token_cache import trained_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EXAMPLES_AT_ONCE, CHARACTERS_AT_ONCE = 256, 2_000_000
"""Limits of one tokenizer call, whichever is reached first: enough to keep it busy, few enough to hold in memory."""


@dataclass(frozen=True, eq=False)
class PreferenceRow:
    chosen: TokenRow
    rejected: TokenRow

    @property
    def noted(self) -> Noted:
        return self.chosen.noted | self.rejected.noted


Encoded = TokenRow | PreferenceRow


def encode(tokenizer: PreTrainedTokenizerFast, example: Example, format: LmDatasetFormat) -> Encoded:
    """The tokens of one example.

    Raises:
        ConfigError: a dialogue without a chat template.
        BadRow: those of `encode_chat`, `empty_text`, `bad_tokens`, `no_trained_token`.
    """
    (encoded,) = Encoder(tokenizer, format).encode([example])
    if isinstance(encoded, BadRow):
        raise encoded
    return encoded


class _Draft(NamedTuple):
    """Texts to tokenize, and `finish`, which makes the result from their rows. It may raise BadRow."""

    texts: Sequence[SpannedText]
    finish: Callable[[Sequence[TokenRow]], Encoded]


@dataclass(frozen=True, eq=False)
class Encoder:
    """Encodes many examples at a time: one tokenizer call for hundreds of them."""

    tokenizer: PreTrainedTokenizerFast
    format: LmDatasetFormat

    def encode(self, examples: Iterable[Example | BadRow]) -> Iterator[Encoded | BadRow]:
        """In the order of `examples`: each encoded, or why it cannot be used. Raises ConfigError.

        Reads ahead by EXAMPLES_AT_ONCE.
        """
        drafts: list[_Draft | BadRow] = []
        characters = 0
        for example in examples:
            try:
                draft = self._draft(example)
                characters += sum(len(spanned.text) for spanned in draft.texts)
                drafts.append(draft)
            except BadRow as bad:
                drafts.append(bad)
            if len(drafts) == EXAMPLES_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
                yield from self._finished(drafts)
                drafts, characters = [], 0
        yield from self._finished(drafts)

    def _finished(self, drafts: Sequence[_Draft | BadRow]) -> Iterator[Encoded | BadRow]:
        texts = [text for draft in drafts if not isinstance(draft, BadRow) for text in draft.texts]
        rows = self._aligner.encode(texts) if texts else []
        done = 0
        for draft in drafts:
            if isinstance(draft, BadRow):
                yield draft
            else:
                of_draft = rows[done : done + len(draft.texts)]
                yield self._finish(draft, of_draft)
                done += len(of_draft)

    def _finish(self, draft: _Draft, rows: Sequence[TokenRow]) -> Encoded | BadRow:
        try:
            noted = [self._noted(row, text) for row, text in zip(rows, draft.texts, strict=True)]
            return _checked(draft.finish(noted))
        except BadRow as bad:
            return bad

    def _noted(self, row: TokenRow, spanned: SpannedText) -> TokenRow:
        if spanned.escaped:
            row = self._aligner.escaped(row, spanned)
        return replace(row, noted=spanned.noted) if spanned.noted else row

    def _draft(self, example: Example | BadRow) -> _Draft:
        match example:
            case BadRow():
                raise example
            case Dialogue():
                return self._dialogue(example)
            case Rated():
                if not example.label:
                    raise BadRow("rated_bad", "the row says that its answer is bad; only good answers are trained")
                return self._dialogue(example.dialogue)
            case Text():
                return self._text(example, whole=self.format.as_chat().train_on == "everything")
            case Segments():
                texts = [self._plain(text, None if trained else ()) for text, trained in example.pieces]
                return _Draft(texts, _joined)
            case Tokens():
                return _Draft((), lambda _: self._given(example))
            case Preference():
                return self._preference(example)
            case TextPreference():
                sides = [Text(example.prompt, side) for side in (example.chosen, example.rejected)]
                return _pair([self._text(side) for side in sides])
        raise AssertionError(f"unknown kind of example: {type(example).__name__}")

    def _dialogue(self, dialogue: Dialogue, train_on: TrainOn | None = None) -> _Draft:
        spanned = self._renderer.render(dialogue, train_on)
        return _Draft((spanned,), lambda rows: self._renderer.checked(rows[0], spanned))

    def _text(self, example: Text, whole: bool = False) -> _Draft:
        """`whole`: the prompt is trained, too."""
        text, whole = example.prompt + example.text, whole or not example.prompt
        spanned = self._plain(text, None if whole else ((len(example.prompt), len(text)),))
        begun, ended = (False, False) if spanned.escaped else self._own_ends(text)
        bos = None if begun else self._bos
        return _Draft((spanned,), lambda rows: self._with_ends(_to_the_end(rows[0]), bos, ended, whole))

    def _plain(self, text: str, trained: Sequence[Range] | None) -> SpannedText:
        """Text without a template. Special tokens in it are counted and escaped as in a dialogue."""
        written = self._renderer.notes.written([text])
        if not written:
            return SpannedText(text, trained)
        escaped = written if self.format.as_chat().special_tokens_in_text == "escape" else ()
        return SpannedText(text, trained, Noted({"special_tokens_in_text": len(written)}), escaped)

    def _own_ends(self, text: str) -> tuple[bool, bool]:
        """Whether a text begins with the BOS and ends with the EOS token, not counting whitespace: most chat templates
        write a newline after it. A token that only ends turns does not end a text."""
        begin, end, text = self.tokenizer.bos_token, self.tokenizer.eos_token, text.strip()
        return bool(begin) and text.startswith(begin), bool(end) and text.endswith(end)

    def _preference(self, pair: Preference) -> _Draft:
        prompt: list[Message] = [{**message, "train": False} for message in pair.prompt]
        # "all" would train on the prompt, which the two sides share.
        train_on: TrainOn = "last" if self.format.as_chat().train_on == "last" else "assistant"
        sides = [[*prompt, *side] for side in (pair.chosen, pair.rejected)]
        dialogues = [Dialogue(messages, pair.tools, pair.chat_template_kwargs) for messages in sides]
        return _pair([self._dialogue(dialogue, train_on) for dialogue in dialogues])

    def _with_ends(self, row: TokenRow, bos: int | None, ended: bool, trained_bos: bool) -> TokenRow:
        """Adds `bos` before the row and a trained EOS after it, unless the text has `ended`."""
        ids, mask = row.input_ids, row.mask
        if not len(ids):
            raise BadRow("empty_text", "the row's text is empty")
        eos = self.tokenizer.eos_token_id
        if bos is not None:
            ids, mask = np.append(np.int32(bos), ids), np.append(np.uint8(trained_bos), mask)
        if eos is not None and not ended:
            ids, mask = np.append(ids, np.int32(eos)), np.append(mask, np.uint8(1))
        return replace(row, input_ids=ids, mask=mask)

    def _given(self, example: Tokens) -> TokenRow:
        size = len(self.tokenizer)
        wrong = [i for i in example.input_ids if not 0 <= i < size]
        if wrong:
            raise BadRow("bad_tokens", f"token id {wrong[0]} is not in the tokenizer's vocabulary, 0 to {size - 1}")
        if len(example.mask) != len(example.input_ids):
            raise BadRow(
                "bad_tokens",
                f"the mask has {len(example.mask)} entries, expected {len(example.input_ids)}, one per token",
            )
        return TokenRow(np.array(example.input_ids, np.int32), np.array(example.mask, np.uint8))

    @functools.cached_property
    def _renderer(self) -> ChatRenderer:
        return ChatRenderer(self.tokenizer, self.format.as_chat())

    @functools.cached_property
    def _aligner(self) -> Aligner:
        return Aligner(self.tokenizer)

    @functools.cached_property
    def _bos(self) -> int | None:
        """The BOS token, if the format asks for it or, by default, if the tokenizer itself puts it before a text."""
        bos = self.tokenizer.bos_token_id
        wanted = self.format.add_special_tokens if isinstance(self.format, TextLmDatasetFormat) else None
        if wanted is None:
            wanted = bos is not None and self.tokenizer("a")["input_ids"][0] == bos
        return bos if wanted else None


def _pair(drafts: Sequence[_Draft]) -> _Draft:
    chosen, rejected = drafts
    cut = len(chosen.texts)

    def finish(rows: Sequence[TokenRow]) -> PreferenceRow:
        first, second = chosen.finish(rows[:cut]), rejected.finish(rows[cut:])
        assert isinstance(first, TokenRow) and isinstance(second, TokenRow)
        return PreferenceRow(first, second)

    return _Draft([*chosen.texts, *rejected.texts], finish)


def _to_the_end(row: TokenRow) -> TokenRow:
    """Trained from its first trained token to the end: its last character may take several tokens."""
    return replace(row, mask=np.maximum.accumulate(row.mask))


def _joined(rows: Sequence[TokenRow]) -> TokenRow:
    ids, masks = [row.input_ids for row in rows], [row.mask for row in rows]
    written = sum(row.noted.counts.get("special_tokens_in_text", 0) for row in rows)
    noted = Noted({"special_tokens_in_text": written}) if written else NOTHING
    return TokenRow(np.concatenate(ids), np.concatenate(masks), noted)


def _checked(encoded: Encoded) -> Encoded:
    for row in (encoded.chosen, encoded.rejected) if isinstance(encoded, PreferenceRow) else (encoded,):
        if trained_tokens(row.mask) == 0:
            raise BadRow("no_trained_token", f"none of the {len(row.mask)} tokens of the row is trained")
    if isinstance(encoded, PreferenceRow) and np.array_equal(encoded.chosen.input_ids, encoded.rejected.input_ids):
        raise BadRow("identical_pair", f"chosen and rejected are the same {len(encoded.chosen.mask)} tokens")
    return encoded
