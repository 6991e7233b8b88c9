"""Peak memory of this process and of its devices."""

from __future__ import annotations

import resource
import sys
import time

GIB = 2**30


class MemoryWatch:
    """`seconds`: the least time between two reports. The system keeps the peaks, so none is missed."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._told = seconds, -float("inf")

    def figures(self) -> dict[str, float]:
        """Peaks in GiB since the process began: of the host and, unless it is a CPU, of the fullest device. {}: not due
        yet."""
        now = time.monotonic()
        if now - self._told < self._seconds:
            return {}
        self._told = now
        return {"memory/host_peak_gib": host_peak() / GIB, **_device_peak()}


def host_peak() -> int:
    """In bytes. Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _device_peak() -> dict[str, float]:
    import jax

    told = [device.memory_stats() for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in told if stats and "peak_bytes_in_use" in stats]
    return {"memory/device_peak_gib": max(peaks) / GIB} if peaks else {}
