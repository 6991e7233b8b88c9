"""What a row can hold. Everything after `example_of` works on these.

Dialogue        messages; rendered with a chat template
Text            plain text: a prompt that is not trained (often empty), then text that is; no template
Segments        plain text in pieces, each trained or not; no template
Tokens          ids and mask made elsewhere, used as they are
Preference      a prompt, and a better and a worse continuation
TextPreference  the same in plain text
Rated           a dialogue and whether its last turns are good

Any other row is a `BadRow`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from marin_sft.data.files import Json
from marin_sft.errors import DataError

Message: TypeAlias = Json
"""`{"role", "content", "reasoning_content"?, "tool_calls"?, "tool_call_id"?, "name"?, "train"?}`; no null values.

`content` is a string. `train` is a bool: whether the turn is trained; it overrides the format. The arguments of a tool
call are an object. `reasoning`, `thinking` and all unknown keys are kept, too: some templates use them.
"""


class BadRow(DataError):
    """One row that cannot be used. Rows are counted by `reason`, a short slug that does not change.

    what: the message without settings of a format, for rows that are read without one.
    """

    def __init__(self, reason: str, message: str, what: str = "") -> None:
        super().__init__(reason, message, what)
        self.reason = reason
        self.message = message
        self.what = what or message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True)
class Dialogue:
    """Roles are user, assistant, system, developer, tool, environment and what the format's `role_map` names.

    `chat_template_kwargs` are this row's own arguments for the template. `tools` are in OpenAI's form.
    `completes`: the row said which turns are the prompt, and which complete it.
    """

    messages: list[Message]
    tools: list[Json] | None = None
    chat_template_kwargs: Json = field(default_factory=dict)
    completes: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Text:
    prompt: str
    text: str


@dataclass(frozen=True)
class Segments:
    """(text, whether it is trained), in order. Each piece is tokenized separately."""

    pieces: list[tuple[str, bool]]


@dataclass(frozen=True)
class Tokens:
    """`mask[i]` is 1 where token i is a target."""

    input_ids: list[int]
    mask: list[int]


@dataclass(frozen=True)
class Preference:
    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: list[Json] | None = None
    chat_template_kwargs: Json = field(default_factory=dict)


@dataclass(frozen=True)
class TextPreference:
    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Rated:
    dialogue: Dialogue
    label: bool


Example = Dialogue | Text | Segments | Tokens | Preference | TextPreference | Rated
