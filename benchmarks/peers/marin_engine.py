"""N trivial steps with marin-core's executor; runs in `.peers`.

marin_engine.py PREFIX STEPS wide|chain REPORT
"""

import time

BEGUN = time.perf_counter()

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

from marin.execution.executor import ExecutorMainConfig, ExecutorStep, executor_main  # noqa: E402
from marin.execution.types import this_output_path, versioned  # noqa: E402

IMPORTED = time.perf_counter()


@dataclass(frozen=True)
class TrivialConfig:
    number: int
    upstream: ExecutorStep | None
    output_path: str


def trivial(config: TrivialConfig) -> None:
    os.makedirs(config.output_path, exist_ok=True)
    Path(config.output_path, "number.txt").write_text(str(config.number))


def make_steps(count: int, shape: str) -> list[ExecutorStep]:
    steps: list[ExecutorStep] = []
    for i in range(count):
        upstream = steps[-1] if steps and shape == "chain" else None
        config = TrivialConfig(versioned(i), upstream, this_output_path())
        steps.append(ExecutorStep(name=f"bench/s{i}", fn=trivial, config=config))
    return steps


def main() -> None:
    prefix, count, shape, report = sys.argv[1:]
    # Without it, each step looks up a cloud's metadata server by DNS.
    os.environ.setdefault("MARIN_PREFIX", prefix)
    executor_main.__wrapped__(ExecutorMainConfig(prefix=prefix), make_steps(int(count), shape))
    seconds = {"imports": IMPORTED - BEGUN, "work": time.perf_counter() - IMPORTED}
    Path(report).write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
