"""Whether a process was killed for its memory use. Ray's memory monitor says so; the kernel only counts its kills.

Reads /proc, so outside Linux a kill by the kernel looks like any lost worker.
"""

from __future__ import annotations

import re
from pathlib import Path

# Counts for the whole machine, containers included. The files of control groups differ by point of view.
_COUNTERS = Path("/proc/vmstat")
_ADVICE = "request what the step needs with resources=CpuConfig(memory=BYTES), or make the step use less memory"


def kernel_kills() -> int:
    """How many processes the kernel's out-of-memory killer has killed on this machine; 0 if that is unknown."""
    try:
        found = re.search(r"^oom_kill (\d+)$", _COUNTERS.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def killed_by_kernel_text() -> str:
    return f"out of memory: the kernel's out-of-memory killer killed a process while the step ran; {_ADVICE}"


def killed_by_ray_text(message: str) -> str:
    """The relevant part of the long message of a ray OutOfMemoryError."""
    node = re.search(r"was (\S+ used / \S+ limit)", message)
    own = re.search(r"actual memory used=([^,\s]+)", message)
    facts = [f"the step used {own[1]}" if own else "", f"its node {node[1]}" if node else ""]
    known = ", ".join(filter(None, facts)) or message.splitlines()[0]
    return f"out of memory: Ray's memory monitor killed the step ({known}); {_ADVICE}"
