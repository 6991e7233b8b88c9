"""Reads the Hugging Face Hub with its own client: the files in a revision of a repository, and their bytes.

Errors of the client become a `DataError` that says what to do, or `Transient` if another try may help.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, filter_repo_objects, get_session, hf_raise_for_status
from urllib3.exceptions import IncompleteRead

from marin_sft.data.remote.transfer import NoSuchHost, RemoteFile, Transient
from marin_sft.errors import DataError
from marin_sft.nearest import listed
from marin_sft.redaction import redacted

TIMEOUT = (10.0, 60.0)
"""Seconds to connect, and between two pieces of an answer."""
CHUNK = 1 << 18
"""Bytes read at once. A broken connection loses less than this."""
# A content delivery network may refuse to send more than about 50 GB in one response.
_AT_ONCE = 8 << 30
_WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}
_QUERY = re.compile(r"\?[^\s'\")]+")
_UNRESOLVED = re.compile(r"Failed to resolve '([^']+)'")


@dataclass(frozen=True)
class Repository:
    """`kind`: "dataset" or "model". `revision`: a branch, tag or commit sha. `endpoint`: the hub's URL."""

    id: str
    kind: str
    revision: str
    endpoint: str

    @property
    def page(self) -> str:
        """The web page of the repository."""
        return f"{self.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.id}"


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at a commit sha. Picklable; holds no token."""

    repository: Repository
    name: str

    def __str__(self) -> str:
        return f"{self.repository.page}/{self.name}@{self.repository.revision[:7]}"

    def read_from(self, offset: int, size: int | None) -> Iterator[bytes]:
        repo = self.repository
        url = hf_hub_url(repo.id, self.name, repo_type=repo.kind, revision=repo.revision, endpoint=repo.endpoint)
        with _explained(repo):
            yield from http_bytes(url, offset, size, build_hf_headers())


def endpoint() -> str:
    """The hub's URL. Read on each call, as the client reads it only when it is imported."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def commit_of(repository: Repository) -> str:
    """The full commit sha of the revision.

    Raises:
        DataError: another try does not help.
        Transient: another try may help.
    """
    with _explained(repository):
        info = HfApi(repository.endpoint).repo_info(
            repository.id, repo_type=repository.kind, revision=repository.revision, timeout=TIMEOUT[1]
        )
    return str(info.sha)


def list_files(repository: Repository, allow: Sequence[str], ignore: Sequence[str]) -> list[RemoteFile]:
    """The files whose path matches a pattern of `allow` (none: all) and none of `ignore`, by path.

    Raises:
        DataError: no file is left, or another try does not help.
        Transient: another try may help.
    """
    with _explained(repository):
        tree = HfApi(repository.endpoint).list_repo_tree(
            repository.id, recursive=True, repo_type=repository.kind, revision=repository.revision
        )
        entries = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    kept = sorted(filter_repo_objects(entries, allow_patterns=list(allow) or None, ignore_patterns=list(ignore)))
    if not kept:
        raise DataError(
            f"{repository.page}: allow_patterns={list(allow)} and ignore_patterns={list(ignore)} leave none of its "
            f"{len(entries)} files; the first are: {listed(sorted(entries))}"
        )
    return [_remote_file(repository, entries[path]) for path in kept]


def _remote_file(repository: Repository, entry: RepoFile) -> RemoteFile:
    digest = f"sha256:{entry.lfs.sha256}" if entry.lfs else f"git:{entry.blob_id}"
    return RemoteFile(entry.path, HubFile(repository, entry.path), entry.size, digest)


def http_bytes(url: str, offset: int, size: int | None, headers: dict[str, str] | None = None) -> Iterator[bytes]:
    """The bytes of `url` from `offset` on, or the first part of them. `size`: that of the whole file, if known."""
    # Without compression, so that lengths are those of the file.
    headers = {**(headers or {}), "Accept-Encoding": "identity"}
    end = "" if size is None else min(size, offset + _AT_ONCE) - 1
    if offset or end:
        headers["Range"] = f"bytes={offset}-{end}"
    with get_session().get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        hf_raise_for_status(answer)
        # A server without range requests sends the whole file: skip what is there already.
        skip = offset if answer.status_code == 200 else 0
        for chunk in answer.iter_content(CHUNK):
            yield chunk[skip:]
            skip = max(0, skip - len(chunk))


@contextmanager
def _explained(repository: Repository) -> Iterator[None]:
    with explained(repository.page, check="HF_ENDPOINT"):
        try:
            yield
        except GatedRepoError:
            raise DataError(
                f"{repository.page} is gated: accept its licence on that page, and set HF_TOKEN to a token of the "
                "account that did"
            ) from None
        except RepositoryNotFoundError:
            raise DataError(
                f"there is no {repository.kind} {repository.id!r} at {repository.endpoint}, or it is private: check "
                "the spelling, and set HF_TOKEN to a token that may read it"
            ) from None
        except RevisionNotFoundError:
            raise DataError(
                f"{repository.page} has no revision {repository.revision!r}; expected a branch, tag or commit sha"
            ) from None
        except HfHubHTTPError as error:
            if error.response.status_code not in (401, 403):
                raise
            raise DataError(
                f"{repository.page}: HTTP {error.response.status_code}: {error.server_message}; "
                "set HF_TOKEN to a valid token that may read it"
            ) from None
        except HFValidationError as error:
            raise DataError(f"{repository.id!r} cannot be the id of a repository: {error}") from None


@contextmanager
def explained(what: str, check: str = "the URL") -> Iterator[None]:
    """Converts errors of the client and of HTTP to ours. check: what may be wrong if the host is not found.

    They drop their cause on purpose: its text may hold URLs with secrets in their queries.
    """
    try:
        yield
    except OfflineModeIsEnabled:
        raise DataError(f"{what}: the environment forbids downloads; unset HF_HUB_OFFLINE") from None
    except EntryNotFoundError:
        raise DataError(f"{what}: the file is not there (404); check its spelling") from None
    except requests.HTTPError as error:
        answer: Any = error.response  # never None: raise_for_status sets it
        said = f"{what}: HTTP {answer.status_code}: {_without_secrets(error)}"
        if answer.status_code in _WORTH_ANOTHER_TRY:
            raise Transient(said, answer.headers.get("Retry-After")) from None
        raise DataError(said) from None
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _connection_lost(what, error, check) from None


def _connection_lost(what: str, error: requests.RequestException, check: str) -> Transient:
    causes = list(_causes(error))
    text, last = _without_secrets(causes[-1]), causes[-1]
    if isinstance(last, socket.gaierror):
        unresolved = next((found for cause in causes if (found := _UNRESOLVED.search(str(cause)))), None)
        host = unresolved[1] if unresolved else what
        return NoSuchHost(f"{host} is not found: {last.strerror}. Check the network, or {check}")
    if isinstance(last, IncompleteRead):
        text = f"the connection broke off, {last.expected} bytes before the end"
    return Transient(f"{what}: {getattr(last, 'strerror', None) or text}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error of the client, and those that it wraps, down to the one that says what happened."""
    cause: object = error
    while isinstance(cause, BaseException):
        yield cause
        inner = (getattr(cause, "reason", None), *cause.args, cause.__cause__)
        cause = next((each for each in inner if isinstance(each, BaseException)), None)


def _without_secrets(error: BaseException) -> str:
    return " ".join(redacted(_QUERY.sub("?...", str(error))).split())
