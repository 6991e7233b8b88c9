"""Files at plain URLs: https:// with the hub's HTTP client, everything else with fsspec."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from huggingface_hub.utils import get_session

from marin_sft.data.files import open_file
from marin_sft.data.remote.hub import CHUNK, TIMEOUT, explained, http_bytes
from marin_sft.data.remote.transfer import RemoteFile, Transient
from marin_sft.errors import DataError
from marin_sft.paths import file_system
from marin_sft.redaction import redacted, without_signature


@dataclass(frozen=True)
class HttpFile:
    url: str

    def __str__(self) -> str:
        return without_signature(self.url).split("?")[0]

    def read_from(self, offset: int, size: int | None) -> Iterator[bytes]:
        with explained(str(self)):
            yield from http_bytes(self.url, offset, size)


@dataclass(frozen=True)
class StoredFile:
    """In an object store, or anything else that fsspec reads."""

    url: str

    def __str__(self) -> str:
        return without_signature(self.url)

    def read_from(self, offset: int, size: int | None) -> Iterator[bytes]:
        try:
            with open_file(self.url, "rb") as stream:
                stream.seek(offset)
                while chunk := stream.read(CHUNK):
                    yield chunk
        except FileNotFoundError:
            raise DataError(f"{self}: there is no such file") from None
        except PermissionError as error:
            said = redacted(str(error))
            raise DataError(f"{self}: may not be read ({said}); check the credentials of this machine") from None
        except (OSError, TimeoutError) as error:
            raise Transient(f"{self}: {redacted(str(error))}") from None


def remote_file(url: str, sha256: str | None) -> RemoteFile:
    """The file at `url`, with its size if the server reports it.

    Raises:
        DataError: it is missing, or may not be read.
        Transient: another try may help.
    """
    name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
    if not name:
        raise DataError(f"{without_signature(url)!r} names no file; expected a URL whose path ends in a file name")
    digest = f"sha256:{sha256.lower()}" if sha256 else None
    if url.startswith(("https://", "http://")):
        return RemoteFile(name, HttpFile(url), _http_size(HttpFile(url)), digest)
    fs, path = file_system(url)
    try:
        return RemoteFile(name, StoredFile(url), int(fs.info(path)["size"]), digest)
    except FileNotFoundError:
        raise DataError(f"{StoredFile(url)}: there is no such file") from None


def _http_size(file: HttpFile) -> int | None:
    """From a HEAD request. None if the server does not answer it or does not know."""
    with explained(str(file)):
        headers = {"Accept-Encoding": "identity"}
        answer = get_session().head(file.url, headers=headers, timeout=TIMEOUT, allow_redirects=True)
        # A URL signed for GET answers HEAD with 403, which says nothing about GET.
        if answer.status_code in (403, 405, 501):
            return None
        answer.raise_for_status()
    length = answer.headers.get("Content-Length")
    return int(length) if length is not None else None
