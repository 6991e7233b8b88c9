"""Previews of rows, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from marin_sft.data.chat.alignment import Noted, TokenRow
from marin_sft.data.chat.notes import DATE, NOTES
from marin_sft.data.chat.special_tokens import pattern_of, special_tokens
from marin_sft.data.formats import TEMPLATE_DATE
from marin_sft.data.preview import Document, RowPreview
from marin_sft.run.preview_request import Previews

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SHOWN_CHARACTERS = 400  # of a message
_GAP = "|"  # between two tokens


def preview_json(row: RowPreview) -> list[dict[str, Any]]:
    """One object; if the row is split, one for each piece."""
    dropped = str(row.dropped) if row.dropped else None
    where = {"file": row.source.file.name, "line": row.source.line, "format": row.shape}
    if row.unused_keys:
        where["unused_keys"] = sorted(row.unused_keys)
    roles = [document.role for document in row.documents]
    if None in roles or not roles:
        documents = row.documents or [Document(None, None, [])]
        return [{**where, **piece} for piece in _document_json(documents[0], dropped)]
    # A pair stays together: the first piece of each side.
    sides = {str(document.role): _document_json(document, dropped)[0] for document in row.documents}
    return [{**where, **sides, "dropped": dropped}]


def _document_json(document: Document, dropped: str | None) -> list[dict[str, object]]:
    tokens = [(row.input_ids.tolist(), row.mask.tolist()) for row in document.rows] or [([], [])]
    more: dict[str, object] = {"messages": document.messages, "dropped": dropped}
    if document.noted:
        more |= {"noted": dict(document.noted.counts), "unread_keys": sorted(document.noted.unread_keys)}
    return [{"input_ids": ids, "mask": mask, **more} for ids, mask in tokens]


def print_previews(console: Console, previews: Previews) -> None:
    """Special tokens in the text of a message are shown in red, with a note below it."""
    for index, row in enumerate(previews.shown):
        if index == 0:  # not before an error
            console.print(Text(f"Lines with + are trained. Tokens are separated by {_GAP}"))
        _print_preview(console, previews.tokenizer, row)
    console.print()
    for line in previews.counts():
        console.print(Text(line, style="red" if previews.dropped else "bold"))


def _print_preview(console: Console, tokenizer: PreTrainedTokenizerFast, row: RowPreview) -> None:
    console.print()
    format = f"  format {row.shape}" if row.shape else ""
    console.print(Text(f"{row.source.file.name}:{row.source.line}{format}", style="bold"))
    if row.dropped:
        console.print(Text(f"dropped, {row.dropped}", style="red"))
        if not row.documents:
            console.print(Text(_short(json.dumps(row.source.row, ensure_ascii=False, default=str)), style="dim"))
    if row.unused_keys:
        console.print(Text(f"keys that the format does not use: {', '.join(sorted(row.unused_keys))}", style="yellow"))
    for document in row.documents:
        if document.role:
            console.print(Text(f"{document.role}:", style="bold"))
        for message in document.messages or ():
            console.print(_message_text(tokenizer, message))
        for line in _notes(document.noted):
            console.print(Text(line, style="yellow"))
        for tokens in document.rows:
            trained = int(tokens.mask.sum())
            console.print(Text(f"{len(tokens.input_ids):,} tokens, {trained:,} trained", style="bold"))
            for line in token_lines(_token_texts(tokenizer, tokens.input_ids), tokens, console.width):
                console.print(Text(line, style="bold green" if line.startswith("+") else "dim"))


def _notes(noted: Noted | None) -> list[str]:
    if not noted:
        return []
    kept = {"special_tokens_in_text": ", kept as control tokens"}  # the default of the format
    lines = [f"{NOTES[name]}: {count}{kept.get(name, '')}" for name, count in noted.counts.items() if name != DATE]
    if DATE in noted.counts:
        lines.append(f"the template uses the date and gets {TEMPLATE_DATE}; see template_date")
    if noted.unread_keys:
        lines.append(f"keys that the chat template does not use: {', '.join(sorted(noted.unread_keys))}")
    return lines


def _message_text(tokenizer: PreTrainedTokenizerFast, message: Mapping[str, object]) -> Text:
    more = {key: value for key, value in message.items() if key not in ("role", "content")}
    more_keys = f" {json.dumps(more, ensure_ascii=False)}" if more else ""
    text = Text(_short(f"{message['role']}: {message['content']}{more_keys}"))
    text.highlight_regex(pattern_of(special_tokens(tokenizer)), "bold red")
    return text


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}... ({len(text):,} characters)"


def _token_texts(tokenizer: PreTrainedTokenizerFast, ids: np.ndarray) -> list[str]:
    """The text of each token, escaped to one line; parts of characters in the tokenizer's own spelling."""
    names = tokenizer.convert_ids_to_tokens(ids.tolist())
    texts = [tokenizer.decode([id], clean_up_tokenization_spaces=False) for id in ids.tolist()]
    shown = [name if "\ufffd" in text or not text else text for name, text in zip(names, texts, strict=True)]
    return ["".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) for text in shown]


def token_lines(texts: list[str], row: TokenRow, width: int) -> list[str]:
    """The tokens in lines of at most `width` columns. Trained and untrained tokens never share a line."""
    lines: list[str] = []
    room, gutter = 0, ""
    for index, (text, trained) in enumerate(zip(texts, row.mask.tolist(), strict=True)):
        wanted = "+ " if trained else "  "
        piece = text if index == len(texts) - 1 else text + _GAP
        if wanted != gutter or cell_len(piece) > room:
            gutter, room = wanted, width - 2
            lines.append(gutter)
        for part in chop_cells(piece, width - 2):  # a token may be longer than a line
            if cell_len(part) > room:
                lines.append(gutter)
                room = width - 2
            lines[-1] += part
            room -= cell_len(part)
    return lines
