"""One row of any known shape -> what it holds, or a `BadRow` that says why it cannot be used.

Reasons by which rows are counted:

not_an_object, unknown_format, missing_key, ambiguous_format      the shape of the row
empty_dialogue, bad_messages, unknown_role, unsupported_field     a list of messages
null_content, bad_content, invalid_unicode                        what a message says
bad_tools, bad_tool_call                                          tools
bad_text, bad_segments, bad_tokens, bad_label                     other kinds of rows
bad_pair, identical_pair, no_common_prompt, no_assistant_turn     preferences
formatting_error                                                  the format's own function
not_trained                                                       a row whose `train` or `weight` says so
not_a_dialogue, several_examples                                  a row of a kind that the caller cannot use
"""

from __future__ import annotations

from marin_sft.data.files import Json
from marin_sft.data.formats import ChatLmDatasetFormat, LmDatasetFormat
from marin_sft.data.messages.detection import read_row
from marin_sft.data.messages.dialogues import read_messages
from marin_sft.data.messages.examples import BadRow as BadRow
from marin_sft.data.messages.examples import Dialogue, Example, Text
from marin_sft.data.messages.examples import Message as Message
from marin_sft.data.messages.tool_calls import kind_of, text_of


def examples_of(row: object, format: LmDatasetFormat) -> list[Example]:
    """The examples in `row`: one, or, for ranked answers, one for each answer worse than the best. Raises BadRow."""
    if not isinstance(row, dict):
        raise BadRow("not_an_object", f"the row is {kind_of(row)}, expected a JSON object")
    chat = format.as_chat()
    return [_formatted(row, chat)] if chat.formatting_func else read_row(row, chat)


def example_of(row: object, format: LmDatasetFormat) -> Example:
    """The only example in `row`. Raises BadRow."""
    examples = examples_of(row, format)
    if len(examples) > 1:
        raise BadRow("several_examples", f"the row holds {len(examples)} examples, expected one")
    return examples[0]


def dialogue_of(row: object, format: LmDatasetFormat) -> Dialogue:
    """The dialogue in `row`. Raises BadRow."""
    example = example_of(row, format)
    if not isinstance(example, Dialogue):
        kind = type(example).__name__
        raise BadRow("not_a_dialogue", f"the row holds a {kind}, expected a dialogue; see shape")
    return example


def _formatted(row: Json, format: ChatLmDatasetFormat) -> Example:
    """What the format's own function makes of `row`. Tools and template arguments still come from the row."""
    assert format.formatting_func is not None
    try:
        made = format.formatting_func(row)
    except Exception as error:  # the user's code may raise anything
        raise BadRow("formatting_error", f"formatting_func raised {type(error).__name__}: {error}") from error
    if isinstance(made, str):
        return Text("", text_of(made, "what formatting_func returned"))
    if not isinstance(made, list):
        raise BadRow(
            "formatting_error", f"formatting_func returned {kind_of(made)}, expected a string or a list of messages"
        )
    given = {key: row[key] for key in ("tools", "chat_template_kwargs") if row.get(key) is not None}
    return read_messages({"messages": made, **given}, format)
