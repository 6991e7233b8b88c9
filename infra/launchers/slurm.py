"""The Slurm batch script: written by hand, except for Ray's settings, which are those of all launchers."""

from __future__ import annotations

import re
from pathlib import Path

from launchers.settings import RAY_NODE

_SCRIPT = Path(__file__).parents[1] / "slurm" / "job.sh"
_HEADING = "# Settings of Ray, which `make infra` writes.\n"


def script() -> str:
    """The script with today's settings."""
    lines = "".join(f"export {name}={value}\n" for name, value in RAY_NODE.items())
    text, found = re.subn(rf"{re.escape(_HEADING)}(export .*\n)*", lambda _: _HEADING + lines, _SCRIPT.read_text())
    assert found == 1, f"{_SCRIPT} has no line {_HEADING!r}"
    return text
