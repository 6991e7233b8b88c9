"""Timestamps of claims, commits and records."""

from __future__ import annotations

import datetime
import time


def now() -> str:
    """UTC, ISO 8601 to the millisecond."""
    moment = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)) + f".{int(moment * 1000) % 1000:03}Z"


def seconds_since_epoch(moment: str) -> float:
    """The inverse of `now`."""
    return datetime.datetime.fromisoformat(moment).timestamp()
