"""Figures told as soon as they are known, so that a run that is cut off has told what it knew."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

FILE = "CARD_FIGURES"
"""Names the variable with the path of the file that lines are added to."""
END = "CARD_END"
"""Names the variable with the time, in seconds since the epoch, after which nothing new is begun."""


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
    """Until nothing new is to be begun; infinite where no end is set."""
    end = os.environ.get(END)
    return float("inf") if end is None else float(end) - time.time()
