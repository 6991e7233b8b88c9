"""Object stores on loopback that answer late, for `engine.py`: the tests' GCS server, and moto's S3."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Bucket:
    """An empty bucket. `environment` leads another process to its server; `requests` counts those answered."""

    url: str
    environment: dict[str, str]
    put: Callable[[str, bytes], Any]
    latency: float = 0.0  # seconds added to each answer
    requests: int = 0

    def delay(self) -> None:
        self.requests += 1
        time.sleep(self.latency)

    def upload(self, folder: Path) -> None:
        """Lay out below the bucket what lies below a local folder."""
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
    """By its file: a dependency of ours installs a package `tests` of its own."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "tests" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def s3_bucket() -> Iterator[Bucket]:
    import boto3
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    moto = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        bucket.delay()
        return moto(environ, start_response)

    quiet = type("Quiet", (MotoRequestHandler,), {"log_request": lambda *_: None, "protocol_version": "HTTP/1.1"})
    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=quiet)
    url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1"}
    client = boto3.Session(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"]).client(
        "s3", "us-east-1", endpoint_url=url
    )
    environment = {**keys, "AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true", "NO_PROXY": "127.0.0.1"}

    def put(name: str, data: bytes) -> None:
        client.put_object(Bucket="bucket", Key=name, Body=data)

    bucket = Bucket("s3://bucket", environment, put)
    client.create_bucket(Bucket="bucket")
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
