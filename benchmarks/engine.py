"""The overhead of the engine, compared with marin-core's executor and redun, in one run: steps that do almost nothing.

python benchmarks/engine.py [--quick] [--runs 3] [--steps 1000]

Each figure is the median of `--runs` fresh processes, as a user starts them. `make peers` builds `.peers`, in which the
peers run; without it, only our side is measured. Each step writes one small file.

marin-core gets MARIN_PREFIX. Without it, each of its steps looks up a cloud's metadata server by DNS, which dominates
if DNS is slow: `MARIN_PREFIX= python benchmarks/engine.py` measures that.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ours_engine import make_steps
from servers import Bucket, gcs_bucket, s3_bucket
from table import Row, Target, print_table

from marin_sft import ExecutorStep
from marin_sft.execution.graph import build_graph

HERE = Path(__file__).parent
LATENCY = 0.02  # seconds added to each answer of an object store
LINKS = 20  # of a chain
DEEP, WIDE = 200, 5000


@dataclass(frozen=True)
class Times:
    """Seconds. `whole` is the process from start to end; `work` leaves out the interpreter's start and the imports."""

    whole: float
    imports: float
    work: float


@dataclass(frozen=True)
class Engine:
    name: str
    python: Path
    script: str

    def launch(self, prefix: str, steps: int, shape: str, *flags: str, **environment: str) -> Times:
        """One process that makes and runs `steps` steps under `prefix`."""
        with tempfile.TemporaryDirectory() as folder:
            report, log = Path(folder, "report"), Path(folder, "log")
            command = [str(self.python), str(HERE / self.script), prefix, str(steps), shape, str(report), *flags]
            begun = time.perf_counter()
            with log.open("w") as output:
                done = subprocess.run(
                    command, stdout=output, stderr=output, cwd=folder, env={**os.environ, **environment}
                )
            whole = time.perf_counter() - begun
            if done.returncode:
                sys.exit(f"{self.name} failed:\n{log.read_text()[-4000:]}")
            return Times(whole, **json.loads(report.read_text()))


OURS = Engine("ours", Path(sys.executable), "ours_engine.py")
PYTHON = Path(HERE.parent, ".peers/bin/python")
PEERS = [Engine("marin-core", PYTHON, "peers/marin_engine.py"), Engine("redun", PYTHON, "peers/redun_engine.py")]


@dataclass(frozen=True)
class Bench:
    """One run of all measurements. `prefix` gives a new, empty directory each time."""

    steps: int
    runs: int
    engines: list[Engine]  # ours first
    prefix: Callable[[], str]

    def rows(self) -> Iterable[Row]:
        yield from self.new_and_cached()
        yield self.ten_times_cached()
        yield self.chain()
        yield self.independent_on_ray()
        yield self.fingerprints()
        yield self.plan_on("GCS", gcs_bucket)
        yield self.plan_on("S3", s3_bucket)

    def new_and_cached(self) -> list[Row]:
        pairs: dict[str, list[tuple[Times, Times]]] = {engine.name: [] for engine in self.engines}
        for _, engine in itertools.product(range(self.runs), self.engines):
            flags = ("--backend", "inline") if engine is OURS else ()
            run = partial(engine.launch, self.prefix(), self.steps, "wide", *flags)
            pairs[engine.name].append((run(), run()))
        new, cached = ({name: _median(p[i] for p in of) for name, of in pairs.items()} for i in (0, 1))
        targets = [Target("<= 0.5 s", 0.5), Target(">= 300x", 300, "marin-core"), Target(">= 8x", 8, "redun")]
        return [
            Row(f"{self.steps:,} new steps", _wholes(new)),
            Row("  without imports", _works(new)),
            Row(f"{self.steps:,} cached steps", _wholes(cached), targets),
            Row("  without imports", _works(cached)),
            Row("  imports alone", {name: times.imports for name, times in cached.items()}),
        ]

    def ten_times_cached(self) -> Row:
        """Only ours, without imports: they would flatter the ratio."""
        seconds = []
        for steps in (self.steps, 10 * self.steps):
            run = partial(OURS.launch, self.prefix(), steps, "wide", "--backend", "inline")
            run()
            seconds.append(_median(run() for _ in range(self.runs)).work)
        target = Target(f"<= 10x {self.steps:,}, here {seconds[1] / seconds[0]:.1f}x", 10 * seconds[0])
        return Row(f"{10 * self.steps:,} cached steps, without imports", {OURS.name: seconds[1]}, [target])

    def chain(self) -> Row:
        spans: dict[str, list[float]] = {engine.name: [] for engine in self.engines}
        for _, engine in itertools.product(range(self.runs), self.engines):
            spans[engine.name].append(self._span(engine, LINKS + 1, "chain"))
        seconds = {name: statistics.median(of) / LINKS for name, of in spans.items()}
        # Threads in the peers; both sides write local files.
        return Row(f"chain of {LINKS}, ours on Ray, a link", seconds, [Target(">= 20x", 20, "marin-core")])

    def independent_on_ray(self) -> Row:
        span = statistics.median(self._span(OURS, self.steps, "wide") for _ in range(self.runs))
        target = Target("<= 25 ms", 0.025)
        return Row(f"{self.steps:,} independent steps on Ray, each", {OURS.name: span / self.steps}, [target])

    def _span(self, engine: Engine, steps: int, shape: str) -> float:
        """Seconds from the first step's output to the last one's. Starting up, also Ray, is not counted."""
        prefix = self.prefix()
        engine.launch(prefix, steps, shape, *(("--max_concurrent", "2") if engine is OURS else ()))
        written = [path.stat().st_mtime for path in Path(prefix).rglob("number.txt")]
        assert len(written) >= steps, f"{engine.name}: {len(written)} outputs of {steps} steps"
        return max(written) - min(written)

    def fingerprints(self) -> Row:
        """A chain, WIDE steps that use its end, and one step that uses all of these."""
        once, twice = (statistics.median(_fingerprint(n) for _ in range(self.runs)) for n in (1, 2))
        targets = [Target("< 2 s", 2.0), Target(f"linear: twice the DAG {twice / once:.1f}x", holds=twice < 2.5 * once)]
        return Row(f"fingerprint a DAG {DEEP} deep, {WIDE:,} wide", {OURS.name: once}, targets)

    def plan_on(self, name: str, serve: Callable[[], contextlib.AbstractContextManager[Bucket]]) -> Row:
        local = self.prefix()
        OURS.launch(local, self.steps, "wide", "--backend", "inline")
        with serve() as bucket:
            bucket.upload(Path(local))
            bucket.latency, bucket.requests, busy = LATENCY, 0, time.process_time()
            plan = partial(OURS.launch, bucket.url, self.steps, "wide", "--dry_run", **bucket.environment)
            seconds = _median(plan() for _ in range(self.runs)).whole
            busy = (time.process_time() - busy) / self.runs  # the server's: it runs in this process
        target = Target(f"<= 5 s, here {bucket.requests // self.runs:,} calls, server busy {busy:.1f} s", 5.0)
        return Row(f"plan on {name}, {self.steps:,} cached, +{1000 * LATENCY:.0f} ms", {OURS.name: seconds}, [target])


def _fingerprint(factor: int) -> float:
    chain = make_steps(DEEP * factor, "chain")
    wide = make_steps(WIDE * factor, "wide", chain[-1])
    last = ExecutorStep("bench/last", wide[0].fn, wide)
    begun = time.perf_counter()
    build_graph([last])
    return time.perf_counter() - begun


def _median(runs: Iterable[Times]) -> Times:
    return Times(*map(statistics.median, zip(*((t.whole, t.imports, t.work) for t in runs), strict=True)))


def _wholes(times: dict[str, Times]) -> dict[str, float]:
    return {name: of.whole for name, of in times.items()}


def _works(times: dict[str, Times]) -> dict[str, float]:
    return {name: of.work for name, of in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one run with 100 steps: a check only")
    arguments = parser.parse_args()
    steps, runs = (100, 1) if arguments.quick else (arguments.steps, arguments.runs)
    engines = [OURS, *(PEERS if PYTHON.exists() else ())]
    print(f"median of {runs}, {os.cpu_count()} cores, load average before {os.getloadavg()[0]:.1f}", flush=True)
    if engines == [OURS]:
        print("ours only: `make peers` builds the environment in which the peers run")
    with tempfile.TemporaryDirectory() as folder:
        numbers = itertools.count()
        bench = Bench(steps, runs, engines, lambda: f"{folder}/{next(numbers)}")
        print_table([engine.name for engine in engines], bench.rows())
    print(f"load average after {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
