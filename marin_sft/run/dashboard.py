"""`marin-sft dashboard`: Ray's own dashboard, which asks for a token, by a link that opens it.

The dashboard takes its token from a cookie. So a server on loopback gives the browser that cookie, and leads it on. The
link carries a word that counts once, never the token, which no other user of the machine, log or page gets to see.
"""

from __future__ import annotations

import contextlib
import hmac
import http.cookies
import secrets
import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from marin_sft.errors import UserError
from marin_sft.execution import ray_environment
from marin_sft.run import job_client, jobs

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

HOST = "127.0.0.1"  # not `localhost`, whose cookies are others
_USED = "this link opens the dashboard once, and was used, or is not the one that was printed: run the command again"


class Doorkeeper(ThreadingHTTPServer):
    """Serves one visit. `link`: what to open. `opened`: set after the visit. page: where it leads."""

    daemon_threads = True

    def __init__(self, token: str, page: str, port: int = 0) -> None:
        super().__init__((HOST, port), _Handler)
        self.page, self.opened = page, threading.Event()
        self._word = secrets.token_urlsafe(16)
        self._cookie: str | None = _cookie(token)
        self._lock = threading.Lock()

    @property
    def link(self) -> str:
        return f"http://{HOST}:{self.server_port}/{self._word}"

    def cookie(self, path: str) -> str | None:
        """The cookie with the token, for the first visitor who knows the word."""
        with self._lock:
            if not hmac.compare_digest(path.encode(), f"/{self._word}".encode()):
                return None
            cookie, self._cookie = self._cookie, None
            return cookie

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Doorkeeper

    def do_GET(self) -> None:
        cookie = self.server.cookie(self.path)
        text = b"" if cookie else _USED.encode()
        self.send_response(HTTPStatus.FOUND if cookie else HTTPStatus.NOT_FOUND)
        if cookie:
            self.send_header("Set-Cookie", cookie)
            self.send_header("Location", self.server.page)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        if cookie:
            self.server.opened.set()

    def log_message(self, *parts: object) -> None:
        """Requests are not printed."""


def _cookie(token: str) -> str:
    """Ray's own cookie, but only until the browser ends."""
    from ray._private.authentication.authentication_constants import AUTHENTICATION_TOKEN_COOKIE_NAME as NAME

    cookie = http.cookies.SimpleCookie({NAME: token})
    cookie[NAME].update({"path": "/", "samesite": "Strict"})
    return f"{cookie[NAME].OutputString()}; HttpOnly"


def doorkeeper(token: str, page: str, port: int) -> Doorkeeper:
    """Raises UserError if the port is taken."""
    try:
        return Doorkeeper(token, page, port)
    except OSError as error:
        raise UserError(f"port {port}: {error.strerror}; choose another with --port") from error


def find_page(client: JobSubmissionClient, job: str | None) -> str:
    """The URL of the dashboard, or of a job in it, as a browser has to open it.

    Raises:
        UserError: there is no such job, or no cookie of this machine reaches the dashboard.
    """
    url = client.get_address()
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.path.strip("/"):
        raise UserError(f"{url}: expected a dashboard at http://HOST:PORT, or a tunnel to it; {_by_hand(url)}")
    page = f"/#/jobs/{quote(jobs.name_of(jobs.find_job(client, job)))}" if job else ""
    return f"http://{HOST}:{parts.port or 80}{page}"


def needed_token(client: JobSubmissionClient) -> str | None:
    """None: the dashboard asks for none."""
    answer = client._do_request("GET", "/api/authentication_mode")
    if answer.status_code == HTTPStatus.OK and answer.json().get("authentication_mode") == "disabled":
        return None
    return ray_environment.read_token()


def ways_in(url: str, page: str, link: str) -> list[str]:
    """What to do on the machine of the browser. url: of the dashboard, from here."""
    parts, port = urlsplit(url), urlsplit(page).port
    near = ray_environment.is_loopback(url)
    here = socket.gethostname()
    target = f"{port}:{HOST if near else parts.hostname}:{port}"
    tunnel = f"ssh -N -L {target} -L {urlsplit(link).port}:{HOST}:{urlsplit(link).port} {here}"
    return [
        f"Open {link}",
        f"It leads to {page}, once, and brings the token. End with Ctrl-C",
        *([] if near else [f"The dashboard is at {url}. First, here: ssh -N -L {port}:{HOST}:{port} {parts.hostname}"]),
        f"If the browser is on another machine, first, there: {tunnel}",
    ]


def _by_hand(url: str) -> str:
    return f"or open {url} and paste the token that this prints: {ray_environment.how_to_see_token()}"


def dashboard_client(address: str | None) -> JobSubmissionClient:
    """Of any Ray, also of one that a launch has started.

    Raises:
        UserError: nothing answers, or it denies access.
    """
    known = address or job_client.known_address() or job_client.usual_dashboard()
    if known is None:
        raise UserError(
            f"no Ray is up here: expected one at port {job_client.DASHBOARD_PORT}, or --address with what a launch, "
            "`marin-sft cluster up` or ray_run has printed"
        )
    return job_client.client_of(known)
