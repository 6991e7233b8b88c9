"""Google Cloud's metadata server on loopback: as much as a poller of notices uses, with held requests."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ROOT = "/computeMetadata/v1/instance/"


class MetadataServer:
    """`set` changes a value, which ends the requests that wait for its change. `asked`: the queries so far, by key."""

    def __init__(self) -> None:
        self._values = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self._versions = {key: 1 for key in self._values}
        self._changed = threading.Condition()
        self.failures = 0
        self.asked: dict[str, list[dict[str, str]]] = {key: [] for key in self._values}
        self.url = ""

    def set(self, key: str, value: str) -> None:
        with self._changed:
            self._values[key] = value
            self._versions[key] += 1
            self._changed.notify_all()

    def wait_for_held(self, key: str) -> None:
        """Until a request waits for a change of `key`."""
        with self._changed:
            assert self._changed.wait_for(lambda: any("last_etag" in query for query in self.asked[key]), 30)

    def answer(self, key: str, query: dict[str, str]) -> tuple[int, str, str]:
        with self._changed:
            self.asked[key].append(query)
            self._changed.notify_all()
            if self.failures:
                self.failures -= 1
                return 503, "", ""
            if query.get("wait_for_change") == "true":
                self._changed.wait_for(
                    lambda: query.get("last_etag") != str(self._versions[key]), float(query["timeout_sec"])
                )
            return 200, self._values[key], str(self._versions[key])


@contextmanager
def metadata_server(address: str = "127.0.0.1", port: int = 0) -> Iterator[MetadataServer]:
    server = MetadataServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            split = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(split.query).items()}
            if self.headers["Metadata-Flavor"] != "Google" or not split.path.startswith(ROOT):
                self.send_error(403)
                return
            code, value, version = server.answer(split.path.removeprefix(ROOT), query)
            self.send_response(code)
            self.send_header("ETag", version)
            self.send_header("Content-Length", str(len(value)))
            with suppress(ConnectionError):  # a client that is gone
                self.end_headers()
                self.wfile.write(value.encode())

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer((address, port), Handler)
    listener.daemon_threads = True
    server.url = f"http://{address}:{listener.server_port}{ROOT}"
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        for key in server.asked:
            server.set(key, "gone")  # frees held requests
        listener.shutdown()
        listener.server_close()
        thread.join()


if __name__ == "__main__":  # at an address and a port; then each line of input sets a key
    with metadata_server(sys.argv[1], int(sys.argv[2])) as running:
        for line in sys.stdin:
            running.wait_for_held(line.split()[0])
            running.set(*line.split())
