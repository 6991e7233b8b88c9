"""What the user says about the shape of the rows. Light values: used in experiment files."""

from __future__ import annotations

from dataclasses import dataclass

from marin_sft.errors import ConfigError


@dataclass(frozen=True)
class ChatLmDatasetFormat:
    """Rows that hold a dialogue.

    A row has a list of `{"role", "content"}` under `messages_field`; or chat lists under `prompt` and `completion`;
    or texts under `instruction` and `response` (or `output`), with an optional `input` and `system`.

    `chat_template`: Jinja text used instead of the tokenizer's own template.
    `mask_user_turns`: True trains on assistant turns only (their end-of-turn token included), False on every token.
    `input_field`, `output_field`: the role names that the rows use for the user and for the assistant. Messages with
    these roles are renamed to "user" and "assistant"; other roles are passed to the template as they are.
    """

    messages_field: str = "messages"
    chat_template: str | None = None
    mask_user_turns: bool = True
    input_field: str = "user"
    output_field: str = "assistant"

    def __post_init__(self) -> None:
        if self.input_field == self.output_field:
            raise ConfigError(
                f"input_field and output_field are both {self.input_field!r}; expected two different role names, "
                "e.g. input_field='human', output_field='gpt'"
            )

    @property
    def roles(self) -> dict[str, str]:
        """From the role names of the rows to those of the template."""
        return {self.input_field: "user", self.output_field: "assistant"}
