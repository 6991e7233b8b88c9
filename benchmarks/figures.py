"""Reports figures as soon as they are known, so that an interrupted run has reported what it knew."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

FILE = "CARD_FIGURES"
"""The variable with the path of the file to append lines to."""
END = "CARD_END"
"""The variable with the time, in seconds since the epoch, after which no new setting is started."""

SHORTEST = 20.0
"""The least seconds that a setting takes: with less time left, none is started."""
DOES_NOT_FIT = 3
"""Exit code of a process whose setting needs more memory than there is."""


def each_alone(what: str, settings: Sequence[str], command: Sequence[str]) -> None:
    """Run `command` with each setting, A/B/COUNT, in its own process, so that peak memory is its own.

    A setting that does not fit into memory is tried again with half its count.
    """
    for setting in settings:
        while True:
            if seconds_left() < SHORTEST:
                tell(f"{what} {setting}", "not measured: no time left")
                break
            try:
                status = subprocess.run([*command, setting], timeout=min(seconds_left(), 600)).returncode
            except subprocess.TimeoutExpired:
                tell(f"{what} {setting}", "not measured: cut off, no time left")
                break
            first, count = setting.rsplit("/", 1)
            if status != DOES_NOT_FIT or int(count) < 2:
                break
            setting = f"{first}/{int(count) // 2}"


def tell(what: str, text: str, **figures: Any) -> None:
    """Print `what: text`, and add it with its figures to the file as a line of JSON."""
    print(f"{what}: {text}", flush=True)
    if path := os.environ.get(FILE):
        with open(path, "a") as file:
            file.write(json.dumps({"what": what, "text": text, **figures}) + "\n")


def told() -> list[Mapping[str, Any]]:
    """All lines of the file so far."""
    path = os.environ.get(FILE, "")
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [json.loads(line) for line in file]


def seconds_left() -> float:
    """Until no new setting is to be started. Infinite if no end is set."""
    end = os.environ.get(END)
    return float("inf") if end is None else float(end) - time.time()
