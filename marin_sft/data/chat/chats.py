"""A dialogue, as the search for its turns sees it, and the marks that may be put into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from marin_sft.data.files import Json
from marin_sft.data.messages.examples import Message

PLANE = 0xF0000
"""Characters of this Unicode plane are marks: no template and no row has them."""


class Chat(Protocol):
    """A dialogue with everything that its rendering depends on."""

    @property
    def messages(self) -> list[Message]: ...

    @property
    def special(self) -> frozenset[str]:
        """The special tokens that may close a turn."""

    @property
    def read(self) -> frozenset[str]:
        """Keys of a message that the template may use."""
        ...

    @property
    def variables(self) -> frozenset[str]:
        """Variables that the template uses, apart from those in messages."""
        ...

    @property
    def tools(self) -> list[Json] | None: ...

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False, **changed: object) -> str: ...
