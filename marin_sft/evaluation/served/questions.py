"""The chats that a server is asked to continue: held-out rows, or a few general ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import chain, islice, zip_longest

from marin_sft.data.chat.renderer import ChatRenderer
from marin_sft.data.files import Json
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.examples import BadRow, Dialogue, Message
from marin_sft.errors import DataError
from marin_sft.evaluation.prompt_files import read_dialogues
from marin_sft.evaluation.step_configs import ServedConfig

# One string per turn. Between them: numbers, code, white space, accents, other scripts, a long one, several turns.
GENERAL = (
    ("Hello!",),
    ("What is 2 + 2?",),
    ("Who was the first person on the moon?",),
    ("List three colours.\n",),
    ("  Name a city in France.",),
    ("Write a haiku about the sea.",),
    ("Translate to French: Good morning, how are you?",),
    ("Où est la bibliothèque, s'il vous plaît ?",),
    ("你好，请介绍一下你自己。",),
    ("What does this do?\n\n```python\ndef f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\n```",),
    ("12345 * 6789 = ?",),
    ("Is 1,000,003 a prime? Don't explain.",),
    ("Say \"yes\" or 'no': is water wet?",),
    ("🙂 what does this mean?",),
    ('Answer in JSON: {"name": "Ada", "age": ...}',),
    ("My name is Ada.", "Nice to meet you, Ada.", "What is my name?"),
    ("Count to 3.", "1, 2, 3", "And backwards?", "3, 2, 1", "Thanks!"),
    ("Which is heavier, a pound of feathers or a pound of lead, and why do so many people answer it wrongly?",),
    ("<b>Bold</b> & [links](http://example.com)?\tTabs too.",),
    ("Tell me a story.",),
)


@dataclass(frozen=True)
class Question:
    """A chat that ends with a user's turn, as our renderer and tokenizer turn it into text and ids."""

    set: str
    messages: list[Message]
    tools: list[Json] | None
    kwargs: Json
    text: str
    ids: list[int]


def questions(config: ServedConfig, renderer: ChatRenderer, max_length: int) -> list[Question]:
    """Those of the config, or `GENERAL`.

    Raises:
        DataError: a row is no prompt, or leaves no room for an answer.
    """
    if not config.prompts:
        found = (_general(renderer, turns) for turns in GENERAL[: config.max_prompts])
        return [question for question in found if len(question.ids) < max_length] or _none_fits(max_length)
    sets = [
        list(islice(_of_file(name, files, renderer, max_length), config.max_prompts))
        for name, files in config.prompts.items()
    ]
    return list(islice(_in_turn(sets), config.max_prompts))


def _of_file(name: str, path: str, renderer: ChatRenderer, max_length: int) -> Iterator[Question]:
    for file, line, asked, _ in read_dialogues(path):
        where = f"{file}:{line}"
        try:
            text = renderer.prompt(asked)
        except BadRow as bad:
            raise DataError(f"{where}: {bad.message}") from bad
        question = _question(name, asked, text, renderer.prompt_ids(text))
        if len(question.ids) >= max_length:
            raise DataError(
                f"{where}: the prompt has {len(question.ids)} tokens, expected fewer than the {max_length} that the "
                "model takes here: remove the row from the prompts"
            )
        yield question


def todays_format() -> ChatLmDatasetFormat:
    """Servers tell templates today's date."""
    return ChatLmDatasetFormat(shape="messages", template_date=date.today().isoformat())


def _general(renderer: ChatRenderer, turns: tuple[str, ...]) -> Question:
    asked = Dialogue([{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)])
    try:
        text = renderer.prompt(asked)
    except BadRow as bad:
        raise DataError(f"the chat template refuses {turns[0]!r}: {bad.message}; give prompts of your own") from bad
    return _question("general", asked, text, renderer.prompt_ids(text))


def _question(name: str, asked: Dialogue, text: str, ids: list[int]) -> Question:
    return Question(name, asked.messages, asked.tools, asked.chat_template_kwargs, text, ids)


def _none_fits(max_length: int) -> list[Question]:
    raise DataError(f"no general question fits into the {max_length} tokens of the model; give prompts of your own")


def _in_turn(sets: list[list[Question]]) -> Iterable[Question]:
    return (question for question in chain(*zip_longest(*sets)) if question is not None)
