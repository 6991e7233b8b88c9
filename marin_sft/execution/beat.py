"""The heartbeat of an attempt's owner, with the step's progress; and what an owner does when it loses its claim."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from dataclasses import asdict

from marin_sft.execution.attempt_log import AttemptLog
from marin_sft.execution.claims import Claim, newer_claim, write_beat
from marin_sft.execution.patience import no_patience
from marin_sft.execution.store import Store
from marin_sft.progress import Progress

LOG_SECONDS = 10.0  # between two progress lines in the attempt's log
LOST_CLAIM = 75  # exit status of a worker process that lost its claim


class Beat:
    """Rewrites the claim's beat while the body runs: a counter, and the latest progress.

    An owner stops its body when it sees a later claim, or has failed to beat for two thirds of the timeout. (After the
    full timeout others consider it dead.) Only a separate process can be stopped. An inline body continues, and its
    commit is refused at the end.
    """

    def __init__(
        self, store: Store, directory: str, claim: Claim, timeout: float, own_process: bool, log: AttemptLog
    ) -> None:
        self._store = store
        self._directory = directory
        self._claim = claim
        self._patience = timeout * 2 / 3
        self._own_process = own_process
        self._log = log
        self._logged, self._logged_text = -LOG_SECONDS, ""
        self.first: Progress | None = None
        self.newest: Progress | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def hear(self, news: Progress) -> None:
        if self.first is None or self.first.unit != news.unit:
            self.first = news
        self.newest = news
        due = news.done == news.total or time.monotonic() - self._logged >= LOG_SECONDS
        if due and (text := news.text()) != self._logged_text:
            self._logged, self._logged_text = time.monotonic(), text
            self._log.write(text + "\n")

    @no_patience()  # the next beat tries again
    def _run(self) -> None:
        count, last = 0, time.monotonic()
        while not self._ended.wait(min(self._store.beat_seconds, self._patience / 4)):
            count += 1
            try:
                lost = newer_claim(self._store, self._directory, self._claim)
                write_beat(self._store, self._directory, self._claim, count, self._news())
                last = time.monotonic()
                self._log.upload()
            except OSError as error:
                lost = time.monotonic() - last > self._patience
                print(f"cannot beat: {error}", file=sys.stderr)
            if lost and self._own_process and not self._ended.is_set():
                self._stop_body()

    def _news(self) -> dict[str, object] | None:
        """Without what is shown nowhere else."""
        return {k: v for k, v in asdict(self.newest).items() if k != "aside"} if self.newest else None

    def _stop_body(self) -> None:
        print(f"stopped: another launch took over {self._directory} from claim {self._claim.number}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(LOST_CLAIM)

    def __enter__(self) -> Beat:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._ended.set()
        self._thread.join()
        if kind is not None:  # interrupted: spare others the wait for the timeout
            with contextlib.suppress(OSError):
                write_beat(self._store, self._directory, self._claim, -1, self._news(), released=True)
