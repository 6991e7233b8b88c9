"""`marin-sft chat`: talk to a model in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from marin_sft.errors import MarinSftError
from marin_sft.evaluation.chat import Chat
from marin_sft.evaluation.sampling import Sampling
from marin_sft.execution.terminal import visible

NEW = "/new"


def talk(path: str, *, system: str | None, max_new_tokens: int, temperature: float) -> None:
    """Answer each line of stdin until it ends. `NEW` starts a new dialogue."""
    chat = Chat(path, system, max_new_tokens, Sampling(temperature, 1.0, 0))
    shown = sys.stdin.isatty()
    if shown:
        print(f"{path}; {NEW} starts a new dialogue, Ctrl-D ends", file=sys.stderr)
    for line in _lines(shown):
        if line == NEW:
            chat.forget()
            continue
        try:
            print(visible(chat.answer(line)), flush=True)
        except MarinSftError as error:  # e.g. too long; the user can start a new dialogue
            print(f"{error} ({NEW})", file=sys.stderr)


def _lines(shown: bool) -> Iterator[str]:
    while True:
        try:
            line = input("> " if shown else "")
        except EOFError:
            return
        if line.strip():
            yield line.strip()
