"""`marin-sft chat`: talk to a model in the terminal, or through pipes."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator

from marin_sft.errors import MarinSftError
from marin_sft.evaluation.answerer import text_of
from marin_sft.evaluation.chat import Chat
from marin_sft.execution.terminal import visible
from marin_sft.nearest import nearest_text

_DIM, _BOLD, _END, _CLEAR = "\x1b[2m", "\x1b[1m", "\x1b[0m", "\r\x1b[K"


class Talk:
    """A chat between stdin and stdout. What is not said by the model goes to stderr where stdout is no terminal."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._shown = sys.stdout.isatty()
        self._colours = self._shown and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def run(self, name: str) -> None:
        """Answer each line of stdin until it ends."""
        asked = sys.stdin.isatty()
        if asked:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # gives input() a history and editing keys
            self._note(f"{name}: /help lists commands, Ctrl-C stops an answer, Ctrl-D ends")
        for line in self._lines("> " if asked else ""):
            try:
                if line.startswith("/"):
                    if self._command(*line[1:].split(maxsplit=1)) is False:
                        return
                elif line.strip():
                    self._answer(line.strip())
            except MarinSftError as error:
                self._note(f"error: {error}")

    def _lines(self, prompt: str) -> Iterator[str]:
        while True:
            try:
                yield input(prompt)
            except EOFError:
                if prompt:
                    print()
                return
            except KeyboardInterrupt:
                if not prompt:
                    raise
                print()
                self._note("Ctrl-D or /quit ends the chat")

    def _answer(self, text: str) -> None:
        chat, begun = self._chat, False
        self._live("...")
        try:
            with contextlib.closing(chat.say(text)) as pieces:
                for is_thought, piece in pieces:
                    if is_thought:
                        self._live(f"thinking: {chat.thought_tokens} tokens")
                        continue
                    if not begun:
                        self._begin()
                    begun = True
                    print(visible(piece), end="", flush=True)
            stopped = chat.unfinished
        except KeyboardInterrupt:
            stopped = "stopped"
        except MarinSftError:
            self._live("")
            raise
        if not begun:
            self._begin()
        if begun or not chat.thought:
            print(flush=True)
        if stopped:
            self._note(f"[{stopped}]")

    def _begin(self) -> None:
        """One line for the thoughts that have ended, instead of them."""
        self._live("")
        if self._chat.thought:
            self._note(f"[thought for {self._chat.thought_tokens} tokens; /think shows it]")

    def _live(self, text: str) -> None:
        """A line that the next one replaces."""
        if self._colours:
            print(f"{_CLEAR}{_DIM}{text}{_END}" if text else _CLEAR, end="", flush=True)

    def _note(self, text: str) -> None:
        text = visible(text)
        if self._shown:
            print(f"{_DIM}{text}{_END}" if self._colours else text, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def _command(self, name: str = "", rest: str = "") -> bool | None:
        """False: end the chat."""
        if name in ("quit", "exit"):
            return False
        name = {"new": "reset"}.get(name, name)
        if name not in _COMMANDS:
            near = nearest_text(name, [*_COMMANDS, "quit"])
            self._note(f"no command /{name} (a space before / makes it a message){near}")
            return None
        _COMMANDS[name](self, rest)
        return None

    def _system(self, text: str) -> None:
        """TEXT: set the system message; without TEXT: remove it"""
        self._chat.set_system(text or None)
        self._note("system message set" if text else "no system message")

    def _reset(self, _: str) -> None:
        """start a new dialogue, with the same system message (also /new)"""
        self._chat.reset()
        self._note("new dialogue")

    def _think(self, _: str) -> None:
        """show what the model thought before its last answer"""
        if self._chat.thought:
            print(visible(self._chat.thought.strip()))
        else:
            self._note("the last answer has no thoughts")

    def _tokens(self, rest: str) -> None:
        """show the last prompt, as the template made it, and answer; /tokens ids"""
        chat = self._chat
        if not chat.asked:
            self._note("nothing is said yet")
            return
        if rest not in ("", "ids"):
            self._note(f"/tokens {rest}: expected /tokens or /tokens ids")
            return
        ids = [*chat.asked, *chat.answered]
        print(self._by_id(ids) if rest else self._as_text(ids))
        self._note(
            f"[{len(chat.asked)} tokens of prompt, {len(chat.answered)} of answer; the model takes "
            f"{chat.answerer.longest}]"
        )

    def _as_text(self, ids: list[int]) -> str:
        tokenizer, text, run = self._chat.answerer.tokenizer, "", []
        special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
        for id in ids:
            if id not in special:
                run.append(id)
                continue
            token = visible(tokenizer.convert_ids_to_tokens(id))
            text += visible(text_of(tokenizer, run)) + (f"{_BOLD}{token}{_END}" if self._colours else token)
            run = []
        return text + visible(text_of(tokenizer, run))

    def _by_id(self, ids: list[int]) -> str:
        tokenizer = self._chat.answerer.tokenizer
        tokens = [f"{id}:{visible(repr(text_of(tokenizer, [id]))[1:-1]).replace(' ', '_')}" for id in ids]
        width = shutil.get_terminal_size().columns
        return textwrap.fill(" ".join(tokens), width, break_long_words=False, break_on_hyphens=False)

    def _help(self, _: str) -> None:
        """show this"""
        for name, run in _COMMANDS.items():
            self._note(f"/{name:<7} {run.__doc__}")
        self._note(f"/{'quit':<7} end the chat")


_COMMANDS: dict[str, Callable[[Talk, str], None]] = {
    "system": Talk._system,
    "reset": Talk._reset,
    "think": Talk._think,
    "tokens": Talk._tokens,
    "help": Talk._help,
}
