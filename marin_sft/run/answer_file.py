"""A file of answers that is there only when it is whole. What was interrupted goes on when the same is asked again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from marin_sft.data.files import Json
from marin_sft.disk import is_local, sync_directory, sync_file
from marin_sft.paths import file_system


class Part:
    """The rows so far, lines of JSON in the file `path`. Those of a killed process, too, except one that it had begun.

    kept: whether they outlast this process.
    """

    def __init__(self, path: str, kept: bool) -> None:
        self.path, self.kept = path, kept
        with open(path, "ab+") as file:
            file.seek(0)
            text = file.read()
            whole = text.rfind(b"\n") + 1
            file.truncate(whole)
        self.rows: list[Json] = [json.loads(line) for line in text[:whole].splitlines()]

    def add(self, row: Json) -> None:
        with open(self.path, "ab") as file:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        self.rows.append(row)


@contextmanager
def writing(output: str, identity: object) -> Iterator[Part]:
    """What `output` is made of when the block ends without an error.

    For a local file, it lies next to it, and has the rows of an earlier call with the same `identity`, a JSON value.
    """
    filesystem, plain = file_system(output)
    if not is_local(filesystem):
        with tempfile.TemporaryDirectory() as folder:
            part = Part(f"{folder}/part", kept=False)
            yield part
            filesystem.put_file(part.path, plain)
        return
    os.makedirs(os.path.dirname(plain), exist_ok=True)
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    part = Part(f"{plain}.{digest[:8]}.part", kept=True)
    yield part
    with open(part.path, "rb") as file:
        sync_file(file.fileno())
    os.replace(part.path, plain)
    sync_directory(os.path.dirname(plain))


def state_of_files(directory: str) -> list[str]:
    """Changes when a file in the directory does."""
    filesystem, plain = file_system(directory)
    return [str(filesystem.ukey(path)) for path in sorted(filesystem.find(plain, maxdepth=1))]
