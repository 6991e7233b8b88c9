"""The commands in a chat: lines that begin with a slash."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable
from typing import NamedTuple

from marin_sft.errors import UserError
from marin_sft.evaluation.answerer import text_of
from marin_sft.evaluation.chat import Chat
from marin_sft.execution.terminal import visible
from marin_sft.nearest import nearest_text


class Told(NamedTuple):
    """What a command says: `text` that was asked for, and a note below it. ends: the chat ends."""

    note: str = ""
    text: str = ""
    ends: bool = False


class Commands:
    """mark: how special tokens are shown."""

    def __init__(self, chat: Chat, mark: Callable[[str], str] = str) -> None:
        self._chat, self._mark = chat, mark

    def run(self, line: str) -> Told:
        """line: with its slash.

        Raises:
            UserError: there is no such command.
            DataError: the chat template takes no system message.
        """
        name, _, rest = line[1:].strip().partition(" ")
        name = _OTHER_NAMES.get(name, name)
        if name not in _COMMANDS:
            near = nearest_text(name, [*_COMMANDS])
            raise UserError(f"no command /{name} (a space before / makes it a message){near}")
        return _COMMANDS[name](self, rest.strip())

    def _system(self, text: str) -> Told:
        """TEXT: set the system message; without TEXT: remove it"""
        self._chat.set_system(text or None)
        return Told("system message set" if text else "no system message")

    def _reset(self, _: str) -> Told:
        """start a new dialogue, with the same system message (also /new)"""
        self._chat.reset()
        return Told("new dialogue")

    def _think(self, _: str) -> Told:
        """show what the model thought before its last answer"""
        thought = visible(self._chat.thought.strip())
        return Told(text=thought) if thought else Told("the last answer has no thoughts")

    def _tokens(self, rest: str) -> Told:
        """show the last prompt, as the template made it, and answer; /tokens ids"""
        chat = self._chat
        if rest not in ("", "ids"):
            raise UserError(f"/tokens {rest}: expected /tokens or /tokens ids")
        if not chat.asked:
            return Told("nothing is said yet")
        ids = [*chat.asked, *chat.answered]
        note = f"[{len(chat.asked)} tokens of prompt, {len(chat.answered)} of answer; the model takes "
        return Told(f"{note}{chat.answerer.longest}]", self._by_id(ids) if rest else self._as_text(ids))

    def _as_text(self, ids: list[int]) -> str:
        tokenizer, text, run = self._chat.answerer.tokenizer, "", []
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        for id in ids:
            if id not in special:
                run.append(id)
                continue
            token = visible(tokenizer.convert_ids_to_tokens(id))
            text += visible(text_of(tokenizer, run)) + self._mark(token)
            run = []
        return text + visible(text_of(tokenizer, run))

    def _by_id(self, ids: list[int]) -> str:
        tokenizer = self._chat.answerer.tokenizer
        tokens = [f"{id}:{visible(repr(text_of(tokenizer, [id]))[1:-1]).replace(' ', '_')}" for id in ids]
        width = shutil.get_terminal_size().columns
        return textwrap.fill(" ".join(tokens), width, break_long_words=False, break_on_hyphens=False)

    def _help(self, _: str) -> Told:
        """show this"""
        return Told("\n".join(f"/{name:<7} {run.__doc__}" for name, run in _COMMANDS.items()))

    def _quit(self, _: str) -> Told:
        """end the chat"""
        return Told(ends=True)


_OTHER_NAMES = {"new": "reset", "exit": "quit"}
_COMMANDS: dict[str, Callable[[Commands, str], Told]] = {
    "system": Commands._system,
    "reset": Commands._reset,
    "think": Commands._think,
    "tokens": Commands._tokens,
    "help": Commands._help,
    "quit": Commands._quit,
}
