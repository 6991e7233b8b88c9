"""Object stores on loopback, as fixtures. A process has one of each: they are found by its environment.

So tests take them by name from the root's conftest, and import none: that would start another.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.gcs_server import GcsServer


@pytest.fixture(scope="session")
def gcs() -> Iterator[GcsServer]:
    """Google Cloud Storage on loopback; its bucket is `gs://bucket`. This process and its children use it."""
    import fsspec
    from fsspec.config import conf

    with pytest.MonkeyPatch.context() as patch, GcsServer() as server:
        server.create_bucket("bucket")
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
        # Whatever credentials the machine has stay out of this: by name for children, in `conf` for this process.
        patch.setenv("FSSPEC_GCS_TOKEN", "anon")
        patch.setitem(conf, "gcs", {"token": "anon"})
        patch.setenv("NO_PROXY", "127.0.0.1")
        filesystem = fsspec.get_filesystem_class("gs")
        filesystem.clear_instance_cache()
        yield server
        filesystem.clear_instance_cache()


class S3Server:
    """moto's S3 on loopback. `faults` are spent on the next conditional writes, one each:

    "lost": done, answered 503. "conflict": not done, answered 409. "vague": a refusal does not name the condition.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        quiet = type("Quiet", (MotoRequestHandler,), {"log_request": lambda *_: None})
        self.faults: list[str] = []
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @contextlib.contextmanager
    def running(self) -> Iterator["S3Server"]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield self
        self._server.shutdown()
        thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        answer: list[Any] = []
        with self._lock:  # moto looks and writes in two steps
            fault = self.faults.pop(0) if self.faults and "HTTP_IF_NONE_MATCH" in environ else None
            if fault == "conflict":
                environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
                return _s3_error(start_response, "409 Conflict", "ConditionalRequestConflict")
            body = b"".join(self._moto(environ, lambda status, headers, *_: answer.extend((status, headers))))
        if fault == "lost":
            return _s3_error(start_response, "503 Service Unavailable", "ServiceUnavailable")
        if fault == "vague":
            assert answer[0].startswith("412")
            return _s3_error(start_response, answer[0], "PreconditionFailed")
        start_response(*answer)
        return [body]


def _s3_error(start_response: Callable[..., Any], status: str, code: str) -> list[bytes]:
    body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """S3 on loopback; its bucket is `s3://bucket`. This process and its children use it."""
    import fsspec

    with pytest.MonkeyPatch.context() as patch, S3Server().running() as server:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, os.devnull)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("NO_PROXY", "127.0.0.1")
        filesystem = fsspec.get_filesystem_class("s3")
        filesystem.clear_instance_cache()
        fsspec.filesystem("s3").makedirs("bucket", exist_ok=True)  # all servers of a process share their buckets
        yield server
        filesystem.clear_instance_cache()


@pytest.fixture(params=["local", "memory", "s3", "gcs"])
def prefix(request, tmp_path) -> str:
    """An empty prefix on each kind of store; on object stores its last part is unique."""
    if request.param in ("s3", "gcs"):
        request.getfixturevalue(request.param)
    unique = f"{tmp_path.parent.name}-{tmp_path.name}"
    kinds = {"local": f"{tmp_path}/store", "memory": f"memory://{unique}", "s3": "s3://bucket/", "gcs": "gs://bucket/"}
    return kinds[request.param] + (unique if request.param in ("s3", "gcs") else "")
