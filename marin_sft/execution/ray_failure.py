"""The text of a failure for Ray's pages: Ray keeps the last 500 bytes of a task's error, with the exception's name."""

from __future__ import annotations

from marin_sft.execution.step_state import Failure

_ERROR = 300  # bytes
_LOCATION = 140


def shown_by_ray(who: str, failure: Failure | None) -> str:
    """Who failed, with which error, and where it was raised. The traceback is in the task's log."""
    if failure is None:
        return who
    error = _cut(f"{who}: {failure.error.strip()}", _ERROR)
    if not failure.location:
        return error
    place = failure.location.partition(": ")[0]  # without the line of code; of a long path, the end tells more
    return f"{error}\nat {_cut(place[::-1], _LOCATION)[::-1]}"


def _cut(text: str, most: int) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= most else f"{data[: most - 4].decode(errors='ignore')} ..."
