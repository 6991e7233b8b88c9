"""Slow object stores on loopback for `engine.py`: the tests' GCS server, and an S3 server for reads."""

from __future__ import annotations

import bisect
import contextlib
import importlib.util
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Bucket:
    """An empty bucket. `environment` points another process to its server. `requests` counts answered requests."""

    url: str
    environment: dict[str, str]
    put: Callable[[str, bytes], Any]
    latency: float = 0.0  # seconds added to each answer
    requests: int = 0

    def delay(self) -> None:
        self.requests += 1
        time.sleep(self.latency)

    def upload(self, folder: Path) -> None:
        """Copy the content of a local folder to the bucket."""
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda path: self.put(path.relative_to(folder).as_posix(), path.read_bytes()), files))


@contextlib.contextmanager
def gcs_bucket() -> Iterator[Bucket]:
    with _tests_module("gcs_server").GcsServer() as server:
        answer = server.answer

        def late(request: Any) -> Any:
            bucket.delay()
            return answer(request)

        server.answer = late
        server.create_bucket("bucket")
        environment = {"STORAGE_EMULATOR_HOST": server.url, "FSSPEC_GCS_TOKEN": "anon", "NO_PROXY": "127.0.0.1"}
        bucket = Bucket("gs://bucket", environment, lambda name, data: server.put("bucket", name, data))
        yield bucket


def _tests_module(name: str) -> Any:
    """Loaded by file name, as a dependency installs its own package `tests`."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "tests" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def s3_bucket() -> Iterator[Bucket]:
    """Answers reads like S3. moto's server takes 4 ms of CPU per call, and would be measured instead of the client."""
    objects: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            bucket.delay()
            path, _, query = self.path.partition("?")
            key = urllib.parse.unquote(path.removeprefix("/bucket").strip("/"))
            if not key:
                self.send(200, _listing(sorted(objects), dict(urllib.parse.parse_qsl(query))))
            elif key in objects:
                self.send(200, objects[key])
            else:
                self.send(404, b"<Error><Code>NoSuchKey</Code></Error>")

        def send(self, status: int, body: bytes) -> None:
            head = f'HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\nETag: "0"\r\n\r\n'
            self.wfile.write(head.encode() + body)  # in one packet: two would wait for an acknowledgement

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1"}
    environment = {**keys, "AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1"}
    bucket = Bucket("s3://bucket", environment, objects.__setitem__)
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()


def _listing(keys: list[str], query: dict[str, str]) -> bytes:
    """The response to ListObjectsV2: the sorted `keys` that begin with the prefix, on one page."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    found: list[str] = []
    folders: list[str] = []
    for key in keys[bisect.bisect_left(keys, prefix) :]:
        if not key.startswith(prefix):
            break
        folder, sign, _ = key.removeprefix(prefix).partition(delimiter) if delimiter else ("", "", "")
        if not sign:
            found.append(key)
        elif [prefix + folder + sign] != folders[-1:]:
            folders.append(prefix + folder + sign)
    contents = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>1</Size></Contents>"
        for key in found
    )
    prefixes = "".join(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in folders)
    count = len(found) + len(folders)
    return (
        f"<ListBucketResult><KeyCount>{count}</KeyCount><IsTruncated>false</IsTruncated>{contents}{prefixes}"
        "</ListBucketResult>"
    ).encode()
