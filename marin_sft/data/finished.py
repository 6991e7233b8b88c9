"""What the tasks of a step have finished, so that its next attempt need not do it again.

{output_path}/.finished/{task}.json     what the task was given, its files with digests, its result

It is written after the files, and removed when the step is done. An attempt copies the files of earlier ones, and reads
them back: a task of a lost attempt may still run, but only writes into that attempt.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence

from marin_sft.data.files import Json, open_file, read_json, write_json
from marin_sft.data.rows.source_rows import Span
from marin_sft.paths import file_system, local_path

FINISHED = ".finished"
_VERSIONS = ("size", "mtime", "generation", "etag", "ETag", "LastModified")
_BLOCK = 1 << 20


def write_finished(output_path: str, task: str, given: object, files: Iterable[str], result: Json) -> None:
    """Record that `task` has written `files`, paths below `output_path`. `given`, `result`: values that JSON keeps."""
    digests = {name: _digest(f"{output_path}/{name}") for name in files}
    write_json(_record(output_path, task), {"given": given, "files": digests, "result": result})


def taken_over(output_path: str, earlier: Sequence[str], task: str, given: object) -> Json | None:
    """The result of `task` in one of the `earlier` attempts, which was `given` the same. Copies its files.

    None if no attempt finished it, or its files are not as it wrote them.
    """
    for attempt in earlier:
        try:
            record = read_json(_record(attempt, task))
            if record["given"] == given and _copied(attempt, output_path, record["files"]):
                return dict(record["result"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or cut off by a power cut
            continue
    return None


def versions_of(spans: Sequence[Span]) -> list[Json]:
    """Spans, with what tells a file from an earlier one of the same name."""
    found = []
    for span in spans:
        filesystem, plain = file_system(span.file.path)
        info = filesystem.info(plain)
        version = {key: str(info[key]) for key in _VERSIONS if key in info}
        found.append({"file": span.file.path, "rows": [span.start, span.stop], **version})
    return found


def _record(directory: str, task: str) -> str:
    return f"{directory}/{FINISHED}/{task}.json"


def _copied(source: str, target: str, digests: dict[str, str]) -> bool:
    """Copy files, and say whether the copies have these digests. If not, none is left."""
    filesystem, base = file_system(target)
    same = False
    try:
        for name in digests:
            to = f"{base}/{name}"
            filesystem.makedirs(to.rpartition("/")[0], exist_ok=True)
            filesystem.cp_file(f"{file_system(source)[1]}/{name}", to)  # in an object store, the store does it
        same = all(_digest(f"{target}/{name}") == digest for name, digest in digests.items())
    finally:
        if not same:
            for name in digests:
                with contextlib.suppress(FileNotFoundError):
                    filesystem.rm_file(f"{base}/{name}")
    return same


def _digest(path: str) -> str:
    """Of the content of a local file, which a power cut may have lost. An object is always whole, so its size does."""
    if local_path(path) is None:
        filesystem, plain = file_system(path)
        return str(filesystem.info(plain)["size"])
    found = hashlib.sha256()
    with open_file(path, "rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
