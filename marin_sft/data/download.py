"""The steps that download files: from a repository on the Hugging Face Hub, or from URLs.

{output_path}/...               the files, under their paths in the repository
{output_path}/.provenance.json  their origin: id, requested revision, commit, files with sizes and digests

The dot keeps it from being read as rows and from counting as output: the same files from another commit change nothing
for the steps that read them.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

from marin_sft import progress
from marin_sft.data.files import Json, read_json, write_json
from marin_sft.data.remote.hub import Repository, commit_of, endpoint, list_files
from marin_sft.data.remote.transfer import RemoteFile, fetch, patiently
from marin_sft.data.remote.urls import remote_file
from marin_sft.data.step_configs import DownloadConfig, DownloadUrlsConfig
from marin_sft.errors import DataError
from marin_sft.execution.shards import map_shards

PROVENANCE = ".provenance.json"
_SHORT_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_BATCH_BYTES, _BATCH_FILES, _AT_ONCE = 1 << 30, 256, 8
_REPORT_SECONDS = 1.0
_logger = logging.getLogger(__name__)


def download(config: DownloadConfig) -> None:
    """Fetch the files of `config`, each checked against the size and digest that the hub lists.

    Raises:
        DataError: a repository, revision or file is missing or may not be read, or the hub cannot be reached.
    """
    asked = Repository(config.id, config.kind, config.revision, endpoint())
    commit = patiently(lambda: commit_of(asked))
    if not _SHORT_COMMIT.fullmatch(config.revision):
        # Not logged: logging settings could silence it.
        print(
            f"{asked.page}: revision {config.revision!r} can move; to always get the same files, set "
            f"revision={commit!r}",
            file=sys.stderr,
        )
    at_commit = Repository(config.id, config.kind, commit, asked.endpoint)
    files = patiently(lambda: list_files(at_commit, config.allow_patterns, config.ignore_patterns))
    said = {"id": config.id, "kind": config.kind, "revision": config.revision, "commit": commit}
    _fetch_all(files, config.output_path, config.earlier_attempts, said)


def download_urls(config: DownloadUrlsConfig) -> None:
    """Fetch the files of `config`, checked against the sizes that their servers report and the given digests.

    Raises:
        DataError: two URLs end in the same file name; or a file is missing, may not be read, or cannot be reached.
    """
    real = {str(signed): signed.url for signed in config.signed}
    files = [patiently(partial(remote_file, real.get(url, url), config.sha256.get(url))) for url in config.urls]
    names = [file.name for file in files]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"urls: {names.count(twice[0])} of them are named {twice[0]!r}; fetch them in separate steps")
    _fetch_all(files, config.output_path, config.earlier_attempts, {"urls": [str(file.origin) for file in files]})


def _fetch_all(files: Sequence[RemoteFile], directory: str, earlier: Sequence[str], said: Json) -> None:
    """Fetch `files` in parallel. The list of files is written first: it tells the next attempt what this one holds."""
    if outside := [file.name for file in files if file.name.startswith("/") or ".." in file.name.split("/")]:
        raise DataError(f"{outside[0]!r} would be written outside of the output; expected a path below it")
    listed = [{"name": file.name, "size": file.size, "digest": file.digest} for file in files]
    write_json(f"{directory}/{PROVENANCE}", {**said, "files": listed})
    same = tuple(attempt for attempt in earlier if _provenance_of(attempt).items() >= said.items())
    total = sum(file.size or 0 for file in files)
    _logger.info("%d files, %.1f MB, to %s", len(files), total / 1e6, directory)
    progress.report(0, total, "bytes")
    batches = [_Batch(directory, same, tuple(some), total) for some in _batched(files)]
    batch_sizes = [sum(file.size or 0 for file in batch.files) for batch in batches]
    sizes = [size for batch in map_shards(_fetch_batch, batches, "bytes", batch_sizes) for size in batch]
    listed = [{**entry, "size": size} for entry, size in zip(listed, sizes, strict=True)]
    write_json(f"{directory}/{PROVENANCE}", {**said, "files": listed})
    progress.report(sum(sizes), sum(sizes), "bytes")


def _provenance_of(attempt: str) -> Json:
    try:
        return read_json(f"{attempt}/{PROVENANCE}")
    except (FileNotFoundError, ValueError):  # killed before or while writing it
        return {}


@dataclass(frozen=True)
class _Batch:
    """Work for one task."""

    directory: str
    earlier: tuple[str, ...]
    files: tuple[RemoteFile, ...]
    total: int


def _batched(files: Sequence[RemoteFile]) -> list[list[RemoteFile]]:
    """A large file is a task of its own; small ones share one."""
    batches: list[list[RemoteFile]] = [[]]
    size = 0
    for file in files:
        if batches[-1] and (size + (file.size or 0) > _BATCH_BYTES or len(batches[-1]) == _BATCH_FILES):
            batches.append([])
            size = 0
        batches[-1].append(file)
        size += file.size or 0
    return [batch for batch in batches if batch]


def _fetch_batch(batch: _Batch) -> list[int]:
    """Fetch a few files at a time, and return their sizes. The first failure ends the batch; what arrived is kept."""
    arrived: list[int] = []  # appended to by all threads
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        running = [pool.submit(fetch, f, batch.directory, batch.earlier, moved=arrived.append) for f in batch.files]
        pending = set(running)
        while pending:
            done, pending = wait(pending, timeout=_REPORT_SECONDS, return_when=FIRST_COMPLETED)
            # Shown only if the batches run in the step's own process.
            progress.report(sum(arrived), batch.total, "bytes")
            if any(future.exception() for future in done):
                pool.shutdown(wait=False, cancel_futures=True)
                break
        return [future.result() for future in running if not future.cancelled()]
