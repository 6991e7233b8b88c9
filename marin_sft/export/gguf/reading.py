"""What a GGUF file says of itself: see `read_gguf`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import gguf

from marin_sft.errors import ExportError


@dataclass(frozen=True)
class StoredGguf:
    """context_length: None: it does not say. chat_template: the default one; None: it has none."""

    name: str
    context_length: int | None
    chat_template: str | None


def gguf_files(directory: str) -> list[str]:
    """The paths of the GGUF files in and below a local directory, relative to it."""
    return sorted(str(file.relative_to(directory)) for file in Path(directory).rglob("*.gguf"))


def read_gguf(path: str) -> StoredGguf:
    """Read the fields of a local file; of its tensors, only whether they are all there.

    Raises:
        ExportError: it is no GGUF file, or a part of it is missing.
    """
    try:
        reader = gguf.GGUFReader(path)
        architecture = _value(reader, "general.architecture")
        length = _value(reader, f"{architecture}.context_length")
        template = _value(reader, "tokenizer.chat_template")
    except (ValueError, IndexError, KeyError, OverflowError) as error:  # also of numpy: what is there is too short
        size = os.path.getsize(path)
        raise ExportError(
            f"{path}: {size:,} bytes, no whole GGUF file ({error}): it is damaged, or was cut while it was written or "
            "copied; copy it again, or write it with marin-sft gguf"
        ) from error
    return StoredGguf(
        name=os.path.basename(path),
        context_length=length if isinstance(length, int) else None,
        chat_template=template if isinstance(template, str) else None,
    )


def _value(reader: gguf.GGUFReader, name: str) -> object:
    field = reader.get_field(name)
    return None if field is None else field.contents()
