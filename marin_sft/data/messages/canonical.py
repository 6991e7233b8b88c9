"""The row that an example is kept as between transform and tokenize. `examples_of` reads the same example from it."""

from __future__ import annotations

from typing import Any

from marin_sft.data.messages.examples import BadRow, Dialogue, Example, Preference, Text, TextPreference


def canonical_row(example: Example) -> dict[str, Any]:
    """`{"messages", "tools"?, "chat_template_kwargs"?}`, `{"prompt", "chosen", "rejected", ...}`, `{"text"}` or
    `{"prompt", "completion"}`.

    Raises:
        BadRow: `no_canonical_row` for ids made elsewhere, segments and ratings, which have no second spelling.
    """
    match example:
        case Dialogue():
            return {"messages": example.messages, **_template_arguments(example)}
        case Preference() | TextPreference():
            pair = {"prompt": example.prompt, "chosen": example.chosen, "rejected": example.rejected}
            return pair if isinstance(example, TextPreference) else {**pair, **_template_arguments(example)}
        case Text(prompt="", text=text):
            return {"text": text}
        case Text(prompt=prompt, text=text):
            return {"prompt": prompt, "completion": text}
    kind = type(example).__name__
    raise BadRow("no_canonical_row", f"the row holds {kind}, which is used as it is: tokenize the files themselves")


def _template_arguments(example: Dialogue | Preference) -> dict[str, Any]:
    arguments = {"tools": example.tools, "chat_template_kwargs": example.chat_template_kwargs}
    return {name: value for name, value in arguments.items() if value}
