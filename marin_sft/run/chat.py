"""`marin-sft chat` in a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from marin_sft.errors import MarinSftError
from marin_sft.evaluation.chat import Chat
from marin_sft.execution.terminal import visible
from marin_sft.run.chat_commands import Commands

_DIM, _BOLD, _END, _CLEAR = "\x1b[2m", "\x1b[1m", "\x1b[0m", "\r\x1b[K"


class Talk:
    """A chat between stdin and stdout. What is not said by the model goes to stderr where stdout is no terminal."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._shown = sys.stdout.isatty()
        self._colours = self._shown and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._commands = Commands(chat, lambda token: f"{_BOLD}{token}{_END}" if self._colours else token)

    def run(self, name: str) -> None:
        """Answer each line of stdin until it ends."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # gives input() a history and editing keys
        self._note(f"{name}: /help lists commands, Ctrl-C stops an answer, Ctrl-D ends")
        for line in self._lines():
            try:
                if line.startswith("/"):
                    told = self._commands.run(line)
                    if told.ends:
                        return
                    if told.text:
                        print(told.text, file=sys.stdout if self._shown else sys.stderr, flush=True)
                    if told.note:
                        self._note(told.note)
                elif line.strip():
                    self._answer(line.strip())
            except MarinSftError as error:
                self._note(f"error: {error}")

    def _lines(self) -> Iterator[str]:
        while True:
            try:
                yield input("> ")
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
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
