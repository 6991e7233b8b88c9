"""An answer as text, piece by piece while its tokens come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from marin_sft.data.chat import reasoning
from marin_sft.evaluation.answerer import text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

THOUGHTS = ((reasoning.OPEN, reasoning.CLOSE), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>"))
_BROKEN = "\ufffd"  # stands for bytes that are no whole character


class TextStream:
    """Tokens -> pieces of text that together are the text of all tokens. A character of several tokens is held back
    until it is whole."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        # Only the last tokens are decoded again. They begin with some whose text is out already, since what a token
        # is as text depends on the one before it.
        self._out = 0

    def add(self, token: int) -> str:
        self._ids.append(token)
        piece = self._held()
        if not piece or piece.endswith(_BROKEN):
            return ""
        self._ids, self._out = self._ids[self._out :], len(self._ids) - self._out
        return piece

    def rest(self) -> str:
        """What is still held back when the answer ends."""
        return self._held()

    def _held(self) -> str:
        return text_of(self._tokenizer, self._ids).removeprefix(text_of(self._tokenizer, self._ids[: self._out]))


class ThoughtStream:
    """Pieces of text -> (whether it is thought, piece) without the tags around the thoughts.

    An answer may begin with thoughts. opened: the prompt ends with the tag that opens them.
    """

    def __init__(self, tags: tuple[str, str], opened: bool) -> None:
        self._open, self._close = tags
        self._state, self._text = "inside" if opened else "before", ""

    @property
    def inside(self) -> bool:
        return self._state == "inside"

    def add(self, piece: str) -> Iterator[tuple[bool, str]]:
        self._text += piece
        if self._state == "before":
            begun = self._text.lstrip()
            if begun.startswith(self._open):
                self._state, self._text = "inside", begun.removeprefix(self._open)
            elif not self._open.startswith(begun):
                self._state = "after"
        if self._state == "inside":
            thought, closed, rest = self._text.partition(self._close)
            if closed:
                self._state, self._text = "between", rest
            else:
                keep = max(n for n in range(len(self._close)) if thought.endswith(self._close[:n]))
                thought, self._text = thought[: len(thought) - keep], thought[len(thought) - keep :]
            if thought:
                yield True, thought
        if self._state == "between":
            self._text = self._text.lstrip()
            self._state = "after" if self._text else "between"
        if self._state == "after":
            yield from self.rest()

    def rest(self) -> Iterator[tuple[bool, str]]:
        """What is still held back."""
        text, self._text = self._text, ""
        if text:
            yield self.inside, text


def tags_of(template: str) -> tuple[str, str]:
    """What a chat template puts around thoughts."""
    return next((tags for tags in THOUGHTS if tags[1] in template), THOUGHTS[0])
