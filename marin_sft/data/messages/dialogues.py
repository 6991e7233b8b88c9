"""Readers of rows that hold one dialogue or one text.

A reader turns the fields of a row, by our names (see shapes.py), into an example. No reader adds words of its own: it
does not wrap an instruction in "### Instruction", or ask for a summary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from marin_sft.data.files import Json
from marin_sft.data.messages.examples import BadRow, Dialogue, Message, Rated, Segments, Text
from marin_sft.data.messages.tool_calls import kind_of, text_of, tools_of, without_nulls
from marin_sft.data.messages.turns import MessageFormat, turns_of, untrained, with_system

Fields: TypeAlias = Json


def dialogue_from(turns: list[Message], fields: Fields, format: MessageFormat) -> Dialogue:
    """`turns` with the row's system turn, tools and template arguments."""
    messages = with_system(turns, fields.get("system"), format)
    if not messages:
        raise BadRow("empty_dialogue", "only system turns, and drop_system leaves them out")
    return Dialogue(messages, tools_of(fields.get("tools")), template_kwargs_of(fields))


def template_kwargs_of(fields: Fields) -> Json:
    kwargs = fields.get("chat_template_kwargs")
    if kwargs is None:
        return {}
    if not isinstance(kwargs, dict):
        raise BadRow("bad_messages", f"chat_template_kwargs is {kind_of(kwargs)}, expected an object")
    return without_nulls(kwargs, "chat_template_kwargs", "bad_messages")


def read_messages(fields: Fields, format: MessageFormat) -> Dialogue:
    return dialogue_from(turns_of(fields["messages"], format), fields, format)


def read_instruction(fields: Fields, format: MessageFormat) -> Dialogue:
    """Alpaca and similar: the input follows the instruction on a new line. `history` holds earlier turns."""
    turns = earlier_turns(fields.get("history"))
    turns += question_turns(fields["instruction"], fields.get("input"), format, "instruction")
    turns += turns_of(fields["output"], format, "output", "assistant")
    return dialogue_from(turns, fields, format)


def read_question(fields: Fields, format: MessageFormat) -> Dialogue:
    """A question and an answer. A context precedes the question, with a blank line between them."""
    question, context = fields["question"], fields.get("context")
    if context not in (None, ""):
        question = f"{text_of(context, 'context')}\n\n{text_of(question, 'question')}"
    answer = turns_of(fields["answer"], format, "answer", "assistant")
    return dialogue_from([*turns_of(question, format, "question", "user"), *answer], fields, format)


def read_multiple_choice(fields: Fields, format: MessageFormat) -> Dialogue:
    """The choices follow the question, one per line. The answer is the solution, then the explanation."""
    choices = fields["choices"]
    if not isinstance(choices, list):
        raise BadRow("bad_messages", f"choices is {kind_of(choices)}, expected a list of strings")
    lines = [f"- {text_of(choice, f'choices[{index}]')}" for index, choice in enumerate(choices)]
    said = [text_of(fields[key], key) for key in ("solution", "explanation") if key in fields]
    if not said:
        raise BadRow("unknown_format", f"keys {list(fields)}; expected a solution or an explanation")
    question = question_turns(fields["question"], "\n".join(lines), format, "question")
    return dialogue_from([*question, {"role": "assistant", "content": "\n".join(said)}], fields, format)


def question_turns(question: object, more: object, format: MessageFormat, where: str) -> list[Message]:
    """What the user says: `question`, and `more` on the next line. Empty ones leave no line."""
    if more not in (None, ""):
        question = "\n".join(text for text in (text_of(question, where), text_of(more, "input")) if text)
    return turns_of(question, format, where, "user")


def read_completion(fields: Fields, format: MessageFormat) -> Dialogue | Text:
    """A prompt and its completion. Two strings are plain text, unless the row has a system prompt or tools.

    In a chat, only the completion is trained.
    """
    prompt, completion = fields["prompt"], fields["completion"]
    strings = isinstance(prompt, str) and isinstance(completion, str)
    if strings and not fields.get("system") and not tools_of(fields.get("tools")):
        return Text(text_of(prompt, "prompt"), text_of(completion, "completion"))
    return read_completion_as_chat(fields, format)


def read_completion_as_chat(fields: Fields, format: MessageFormat) -> Dialogue:
    prompt = turns_of(fields["prompt"], format, "prompt", "user")
    completion = turns_of(fields["completion"], format, "completion", "assistant")
    turns = [*(prompt if format.train_on == "everything" else untrained(prompt)), *completion]
    return replace(dialogue_from(turns, fields, format), completes=True)


def rated(read: Callable[[Fields, MessageFormat], Dialogue]) -> Callable[[Fields, MessageFormat], Rated]:
    """A reader of what `read` reads, and a label. Strings are a chat here, too: a rating is about an answer."""

    def read_rated(fields: Fields, format: MessageFormat) -> Rated:
        return Rated(read(fields, format), _label(fields["label"]))

    return read_rated


def read_text(fields: Fields, format: MessageFormat) -> Text:
    return Text("", text_of(fields["text"], "text", "bad_text"))


def read_segments(fields: Fields, format: MessageFormat) -> Segments:
    segments = fields["segments"]
    if not isinstance(segments, list) or not segments:
        raise BadRow("bad_segments", f"segments is {kind_of(segments)}, expected a list of {{text, label}}")
    pieces = []
    for index, segment in enumerate(segments):
        if not isinstance(segment, dict) or not isinstance(segment.get("label"), bool):
            raise BadRow("bad_segments", f"segments[{index}]: expected an object with a text and a true or false label")
        pieces.append((text_of(segment.get("text"), f"segments[{index}].text", "bad_segments"), segment["label"]))
    return Segments(pieces)


def earlier_turns(history: object) -> list[Message]:
    if history is None:
        return []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise BadRow("bad_messages", "history: expected a list of pairs [question, answer]")
    return [
        {"role": role, "content": text_of(said, f"history[{index}]")}
        for index, pair in enumerate(history)
        for role, said in zip(("user", "assistant"), pair, strict=True)
    ]


_RATING_WORDS = frozenset(
    ("-1", "yes", "no", "good", "bad", "desirable", "undesirable", "chosen", "rejected", "positive", "negative")
)


def as_rating(label: object) -> bool | None:
    """Whether `label` says good or bad, also in the spellings of formats without booleans. None for anything else."""
    if isinstance(label, bool | int | float) and label in (0, 1):
        return bool(label)
    return {"true": True, "false": False, "1": True, "0": False}.get(label.lower()) if isinstance(label, str) else None


def may_rate(label: object) -> bool:
    """Whether `label` may be a rating, in any words."""
    words = isinstance(label, str) and label.strip().lower() in _RATING_WORDS
    return words or as_rating(label) is not None or (isinstance(label, int | float) and label == -1)


def _label(label: object) -> bool:
    rating = as_rating(label)
    if rating is None:
        got = repr(label)[:40] if isinstance(label, str | int | float) else kind_of(label)
        raise BadRow("bad_label", f"the label is {got}, expected true or false")
    return rating
