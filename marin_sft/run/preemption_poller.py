"""Watch Google Cloud's notices that this host will be taken away, and drain its Ray nodes, so that steps save first.

    python -m marin_sft.run.preemption_poller --address HEAD:6379

Runs on every worker host of a cluster on Compute Engine or TPU VMs; `infra/` starts it there. The metadata server
holds a request until its answer changes, so a notice is seen at once and waiting costs nothing. A Spot host has 30
seconds. Kubernetes and Slurm send SIGTERM instead, on which Ray drains by itself.

Source: https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice
"""

from __future__ import annotations

import argparse
import fcntl
import http.client
import os
import queue
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from marin_sft.run.draining import drain

METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/"
_HOLD = 300  # seconds that the server holds a request
_PAUSE = 5.0  # after a failed request


@dataclass(frozen=True)
class Notice:
    """`key` of the metadata server has `value`: the host is gone in `seconds`."""

    key: str
    value: str
    seconds: float


# What each value means, in seconds until the host is gone. All other values, such as a live migration, need nothing.
NOTICES: Mapping[str, Mapping[str, float]] = {
    "preempted": {"TRUE": 30},
    "maintenance-event": {"TERMINATE_ON_HOST_MAINTENANCE": 60},
}


@dataclass
class Watch:
    """Watches one key. The first answer comes at once, each further one when the value has changed."""

    url: str
    key: str
    hold: float = _HOLD
    pause: float = _PAUSE
    _seen: str | None = field(default=None, init=False)

    def next(self) -> Notice | None:
        """The notice that the server's next answer gives, if it is one."""
        asked = {"timeout_sec": str(int(self.hold))}
        if self._seen is not None:
            asked |= {"wait_for_change": "true", "last_etag": self._seen}
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/{self.key}?{urllib.parse.urlencode(asked)}", headers={"Metadata-Flavor": "Google"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach this server
        try:
            with opener.open(request, timeout=self.hold + 30) as answer:
                value = answer.read().decode().strip()
                self._seen = answer.headers["ETag"]
        except (OSError, http.client.HTTPException) as error:
            print(f"the metadata server does not answer for {self.key}: {error}", file=sys.stderr, flush=True)
            time.sleep(self.pause)
            return None
        seconds = NOTICES[self.key].get(value)
        return None if seconds is None else Notice(self.key, value, seconds)


def watch(url: str, found: queue.Queue[Notice]) -> None:
    """Put the notices of all keys into `found`, from threads that end with the process."""

    def forever(key: Watch) -> None:
        while True:
            if notice := key.next():
                found.put(notice)

    for key in NOTICES:
        threading.Thread(target=forever, args=(Watch(url, key),), name=key, daemon=True).start()


def drain_on(notice: Notice, address: str) -> None:
    """Drain this host's nodes. Tries until the time is up: the head may be busy, or the host's Ray still starting."""
    end = time.monotonic() + notice.seconds
    message = f"the metadata server says {notice.key}={notice.value}"
    while (left := end - time.monotonic()) > 0:
        try:
            if nodes := drain(address, message, left):
                print(f"{message}: draining {', '.join(nodes)}", flush=True)
                return
            trouble = "no Ray node of the cluster is on this host"
        except Exception as error:  # Ray's client raises many kinds; only the time that is left counts
            trouble = f"{type(error).__name__}: {error}"
        print(f"{message}, but: {trouble}; trying again", file=sys.stderr, flush=True)
        time.sleep(min(1, max(0, end - time.monotonic())))


def _only_one(lock: Path) -> object | None:
    """A lock that this process holds while it lives. None: another poller of this host has it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = lock.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m marin_sft.run.preemption_poller", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help="host:port of the head; $RAY_ADDRESS")
    parser.add_argument("--metadata", default=METADATA, help="the metadata server's instance/ (default: %(default)s)")
    parser.add_argument("--lock", type=Path, default=Path("/tmp/marin_sft/preemption_poller.lock"), help="one per host")
    asked = parser.parse_args(arguments)
    if not asked.address:
        parser.error("--address: got nothing, expected host:port of the head, or RAY_ADDRESS in the environment")
    held = _only_one(asked.lock)
    if held is None:
        print(f"a poller of this host already runs: it holds {asked.lock}", file=sys.stderr)
        return 0
    found: queue.Queue[Notice] = queue.Queue()
    watch(asked.metadata, found)
    print(f"watching {', '.join(NOTICES)} at {asked.metadata}", flush=True)
    while True:
        drain_on(found.get(), asked.address)


if __name__ == "__main__":
    sys.exit(main())
