"""`marin-sft ui`: the same pages, live. It only reads, and listens on loopback alone.

Whoever has the printed link may read: other users of the machine can reach loopback, too. The link carries a token,
which becomes a cookie; and a page of another site, whose name was made to point here, is refused by its Host.
"""

from __future__ import annotations

import contextlib
import hmac
import http.cookies
import json
import secrets
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from marin_sft.errors import MarinSftError, UserError
from marin_sft.execution.catalog import read_catalog
from marin_sft.execution.claims import attempt_path
from marin_sft.execution.clock import now
from marin_sft.execution.documents import JsonObject
from marin_sft.execution.prices import Prices
from marin_sft.execution.record import read_launches
from marin_sft.execution.step_state import read_state
from marin_sft.execution.store import Store
from marin_sft.redaction import redacted
from marin_sft.run import launches
from marin_sft.run.report.contents import contents
from marin_sft.run.report.page import live_page
from marin_sft.run.report.subject import subject_of
from marin_sft.run.status import read_statuses

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_LAUNCHES = 100  # the newest, in the overview
_SUMMARIES = 30  # of these, with how they ended
_LOG = 256 << 10  # bytes of a log in an answer
_KEPT = 32  # answers
_SHARE = 10  # at most one part in so many of the time goes into making an answer
_COOKIE = "marin_sft_ui"

Query = dict[str, list[str]]


class _Kept:
    """An answer, and when it was made."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.when = 0.0
        self.found: JsonObject | None = None


class Answers:
    """What the pages ask for. Answers are kept for a beat, so that many open pages cost no more than one."""

    def __init__(self, store: Store, prices: Prices | None = None) -> None:
        self._store, self._prices = store, prices
        self._every = max(2.0, store.beat_seconds)
        self._lock = threading.Lock()
        self._kept: dict[tuple[object, ...], _Kept] = {}
        self._shown: set[str] = set()  # directories of steps on some page; only their logs are read

    def overview(self, query: Query) -> JsonObject:
        return self._fresh(("overview",), self._overview)

    def launches(self, query: Query) -> JsonObject:
        return self._fresh(("launches",), lambda: {"launches": launches.summaries(self._store, _SUMMARIES)})

    def contents(self, query: Query) -> object:
        texts = tuple(query.get("of", ()))
        return self._fresh(("contents", *texts), lambda: self._contents(texts))

    def log(self, query: Query) -> JsonObject:
        """What was added to a log after `offset`."""
        try:
            directory, attempt, offset = query["directory"][0], int(query["attempt"][0]), int(query["offset"][0])
        except (KeyError, ValueError):
            raise UserError("expected directory, attempt and offset") from None
        if directory not in self._shown:
            raise UserError(f"{directory}: no step of a page that was shown")
        state = read_state(self._store, directory)  # before the log, so that all that was written is read
        data = self._store.read_from(f"{attempt_path(self._store, directory, attempt)}/.log", max(0, offset), _LOG)
        going = state.running and state.claim is not None and state.claim.number == attempt
        if going:
            data = data[: data.rfind(b"\n") + 1]  # whole lines, so that no character is cut in two
        text = redacted(data.decode(errors="replace"))
        return {"text": text, "offset": offset + len(data), "ended": not going and not data, "every": 1.0}

    def _fresh(self, key: tuple[object, ...], read: Callable[[], JsonObject]) -> JsonObject:
        """`every`, in the answer: seconds until it is worth to ask again, more where it takes long to make."""
        with self._lock:
            if key not in self._kept and len(self._kept) >= _KEPT:
                self._kept.clear()
            kept = self._kept.setdefault(key, _Kept())
        with kept.lock:
            if kept.found is None or time.monotonic() - kept.when > kept.found["every"] / 2:
                began = time.monotonic()
                found = read()
                kept.when = time.monotonic()
                kept.found = {**found, "every": max(self._every, _SHARE * (kept.when - began))}
            return kept.found

    def _overview(self) -> JsonObject:
        recorded = read_launches(self._store)
        catalog = read_catalog(self._store)
        steps = read_statuses(self._store, None, catalog.steps, recorded)
        names = [{**launches.named(launch), "ended": launch.ended} for launch in recorded[:_LAUNCHES]]
        prefix = f"{self._store.prefix}/"
        return {
            "prefix": self._store.prefix,
            "made": now(),
            "launches": names,
            "more_launches": max(0, len(recorded) - _LAUNCHES),
            "steps": [{**asdict(step), "directory": step.path.removeprefix(prefix)} for step in steps],
        }

    def _contents(self, texts: tuple[str, ...]) -> JsonObject:
        found = contents(self._store, subject_of(self._store, texts, files=False), self._prices)
        self._shown |= {step["directory"] for step in found["steps"]}
        return found


class Server(ThreadingHTTPServer):
    """Serves the pages of a store until it is shut down. `url`: the link to open."""

    daemon_threads = True

    def __init__(self, store: Store, port: int, prices: Prices | None = None) -> None:
        super().__init__((HOST, port), _Handler)
        self.answers = Answers(store, prices)
        self.token = secrets.token_urlsafe(16)

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that goes away is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_port}/?{urlencode({'token': self.token})}"


def serve(store: Store, port: int, prices: Prices | None) -> None:
    """Print the link, and serve until Ctrl-C.

    Raises:
        UserError: the port is taken.
    """
    try:
        server = Server(store, port, prices)
    except OSError as error:
        raise UserError(f"port {port}: {error.strerror}; choose another with --port") from error
    print(f"Open {server.url}\nEnd it with Ctrl-C", flush=True)
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in _NAMES:  # any port: it may be a tunnel's
            return self._refuse(HTTPStatus.FORBIDDEN, "this name does not lead here: open the printed link")
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        given = query.get("token", [""])[0]
        if given and self._is_token(given):
            return self._send(HTTPStatus.FOUND, b"", "text/plain", Location=url.path, **self._cookie())
        if not self._is_token(self._cookie_given()):
            return self._refuse(HTTPStatus.FORBIDDEN, "open the link that `marin-sft ui` printed: it carries a token")
        if url.path in ("/", "/page"):
            return self._send(HTTPStatus.OK, live_page().encode(), "text/html; charset=utf-8")
        return self._answer(url.path, query)

    def _answer(self, path: str, query: Query) -> None:
        answers = self.server.answers
        known = {"overview": answers.overview, "launches": answers.launches, "contents": answers.contents}
        read = {**known, "log": answers.log}.get(path.removeprefix("/api/"))
        if read is None or not path.startswith("/api/"):
            return self._refuse(HTTPStatus.NOT_FOUND, f"{path}: no such page")
        try:
            found = read(query)
        except UserError as error:
            return self._refuse(HTTPStatus.NOT_FOUND, str(error))
        except (MarinSftError, OSError) as error:
            return self._refuse(HTTPStatus.BAD_GATEWAY, str(error))
        except (ValueError, KeyError, TypeError) as error:  # of a record that another version wrote
            return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")
        self._send(HTTPStatus.OK, json.dumps(found, allow_nan=False).encode(), "application/json")

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.server.token.encode())

    def _cookie_given(self) -> str:
        name = f"{_COOKIE}_{self.server.server_port}"  # cookies do not tell ports apart
        try:
            found = http.cookies.SimpleCookie(self.headers.get("Cookie", "")).get(name)
        except http.cookies.CookieError:
            return ""
        return found.value if found else ""

    def _cookie(self) -> dict[str, str]:
        name = f"{_COOKIE}_{self.server.server_port}"
        return {"Set-Cookie": f"{name}={self.server.token}; HttpOnly; SameSite=Strict; Path=/"}

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self._send(status, json.dumps({"error": text}).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        fixed = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in {**fixed, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts: object) -> None:
        """Requests are not printed."""
