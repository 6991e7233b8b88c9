"""`marin-sft chat` through pipes: each line of the input gives one line of the output.

A line of text is an answer, with its line breaks as `\\n`; a command and a blank line give an empty one, and the first
error ends the chat. A line of JSON has

    {"line", "prompt", "answer", "finish": "stop" or "length", "prompt_tokens", "tokens"}, and "thought" if there is one
    {"line", "prompt", "error"} for what cannot be answered; the next line is a turn of the same dialogue
    {"line", "command", "text"} for a command; {"line", "prompt": "", "skipped": true} for a blank line
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from marin_sft.data.files import Json
from marin_sft.errors import MarinSftError, UserError
from marin_sft.evaluation.chat import Chat
from marin_sft.execution.terminal import visible
from marin_sft.run.chat_commands import Commands


def answer_lines(chat: Chat, lines: Iterable[bytes], as_json: bool) -> None:
    """Answer `lines` on stdout, each as soon as it comes. They are turns of one dialogue.

    Raises:
        UserError: a line cannot be answered; as JSON, after all others are.
    """
    commands, failed, number = Commands(chat), 0, 0
    for number, raw in enumerate(lines, 1):
        line, ends = "", False
        try:
            line = _decoded(raw, number)
            if line.startswith("/"):
                told = commands.run(line)
                ends = told.ends
                row: Json = {"command": line.strip(), "text": f"{told.text}\n{told.note}".strip()}
            elif line.strip():
                row = {"prompt": line.strip(), **_answered(chat, line.strip())}
            else:
                row = {"prompt": "", "skipped": True}
        except MarinSftError as error:
            if not as_json:
                raise UserError(f"line {number}: {error}") from error
            row = {"prompt": line.strip(), "error": str(error)}
            failed += 1
        if as_json:
            print(json.dumps({"line": number, **row}, ensure_ascii=False), flush=True)
        else:
            _print_text(chat, number, row)
        if ends:
            break
    if failed:
        raise UserError(f"{failed} of {number} lines could not be answered; their error says why")


def _decoded(raw: bytes, number: int) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"expected UTF-8: {error}") from error


def _answered(chat: Chat, text: str) -> Json:
    answer = "".join([piece for is_thought, piece in chat.say(text) if not is_thought])
    return {
        **({"thought": chat.thought.strip()} if chat.thought else {}),
        "answer": answer,
        "finish": "length" if chat.unfinished else "stop",
        "prompt_tokens": len(chat.asked),
        "tokens": len(chat.answered),
    }


def _print_text(chat: Chat, number: int, row: Json) -> None:
    """On stdout, only the answer."""
    print(visible(row.get("answer", "")).replace("\n", "\\n"), flush=True)
    notes = [row.get("text"), row.get("finish") == "length" and f"line {number}: {chat.unfinished}"]
    for note in filter(None, notes):
        print(visible(note), file=sys.stderr, flush=True)
