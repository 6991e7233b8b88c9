"""Retries of store calls: a store that fails is retried for a while, then its error is reported in one paragraph.

Clients of object stores retry on their own, some for half a minute. So the limit here is time, not the number of tries.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Concatenate, ParamSpec, TypeVar

from marin_sft.errors import StoreUnavailable, UserError

S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")

_SECONDS = "MARIN_SFT_STORE_PATIENCE"  # how long to retry a failing store; default: 30
_FIRST_PAUSE = 0.1  # seconds; doubles each time
_ANSWERS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_PASSING = {
    getattr(errno, name)
    for name in (
        "EAGAIN ECONNABORTED ECONNREFUSED ECONNRESET EHOSTDOWN EHOSTUNREACH ENETDOWN ENETRESET ENETUNREACH ENOTCONN "
        "EPIPE EREMOTEIO ESHUTDOWN ESTALE ETIMEDOUT"
    ).split()
    if hasattr(errno, name)
}
# Errors of aiohttp, botocore, google.auth and requests, by name so that no client is imported.
_LOST = {
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectionError",
    "HTTPClientError",
    "RequestException",
    "TimeoutError",
    "TransportError",
}
_BUSY = {"ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown"}
_CHECK = {
    "s3": "the network, AWS_ENDPOINT_URL, and the credentials (AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret)",
    "gs": "the network, and the credentials (GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login)",
    "": "that its disk is mounted and not full, and that you may read and write it",
}
_patience: ContextVar[float | None] = ContextVar("marin_sft_store_patience", default=None)


@contextlib.contextmanager
def no_patience() -> Iterator[None]:
    """Inside the block, store calls are not retried: for callers that poll."""
    token = _patience.set(0.0)
    try:
        yield
    finally:
        _patience.reset(token)


def patient(operation: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Decorates a store method that may be retried.

    Raises:
        StoreUnavailable: for every OSError that is not an answer, such as FileNotFoundError.
    """
    return _asked(operation, again=True)


def once(operation: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """As `patient`, for a method that must not be retried."""
    return _asked(operation, again=False)


def _asked(operation: Callable[Concatenate[S, P], R], again: bool) -> Callable[Concatenate[S, P], R]:
    @functools.wraps(operation)
    def ask(store: S, *args: P.args, **kwargs: P.kwargs) -> R:
        began, pause = time.monotonic(), _FIRST_PAUSE
        for tries in itertools.count(1):
            try:
                return operation(store, *args, **kwargs)
            except (StoreUnavailable, *_ANSWERS):
                raise
            except OSError as error:
                waited, passing = time.monotonic() - began, is_passing(error)
                if not (again and passing and waited + pause <= seconds_of_patience()):
                    raise _unavailable(store, error, passing, tries, waited) from error
            time.sleep(pause)
            pause *= 2
        raise AssertionError("the last round returns or raises")

    return ask


def seconds_of_patience() -> float:
    """How long to retry a failing store.

    Raises:
        UserError: the environment variable is not a number of seconds.
    """
    if (own := _patience.get()) is not None:
        return own
    text = os.environ.get(_SECONDS, "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UserError(f"{_SECONDS}={text}; expected a number of seconds >= 0")
    return seconds


def _unavailable(store: Any, error: OSError, passing: bool, tries: int, waited: float) -> StoreUnavailable:
    said = next(filter(None, reversed(str(error).splitlines())), type(error).__name__)
    protocol = store.prefix.partition("://")[0] if "://" in store.prefix else ""
    check = _CHECK.get(protocol.removesuffix("a").replace("gcs", "gs"), "the network")
    asked = f" in {waited:.0f} s, tried {tries} times" if passing and tries > 1 else ""
    what = f"it does not answer{asked}" if passing else "it refuses"
    return StoreUnavailable(f"prefix {store.prefix}: {what}: {said}. Check {check}", said, silent=passing)


def was_sent(error: BaseException) -> bool:
    """False if the server was never reached, so that it cannot have carried out the request."""
    if {"ClientConnectorError", "EndpointConnectionError"} & {kind.__name__ for kind in type(error).__mro__}:
        return False
    return error.__cause__ is None or was_sent(error.__cause__)


def is_passing(error: BaseException) -> bool:
    """Whether a retry may succeed: a lost connection, an overloaded server."""
    if isinstance(error, OSError) and error.errno in _PASSING:
        return True
    if _LOST & {kind.__name__ for kind in type(error).__mro__}:
        return True
    response = getattr(error, "response", None)
    answer: dict[str, Any] = response if isinstance(response, dict) else {}
    if answer.get("Error", {}).get("Code") in _BUSY:
        return True
    codes = (
        answer.get("ResponseMetadata", {}).get("HTTPStatusCode"),
        *(getattr(error, n, 0) for n in ("code", "status")),
    )
    if any(int(code) >= 500 or int(code) in (408, 429) for code in codes if str(code).isdigit()):
        return True
    return error.__cause__ is not None and is_passing(error.__cause__)
