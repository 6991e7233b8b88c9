"""N trivial steps with marin_sft, as `peers/marin_engine.py` and `peers/redun_engine.py` do them.

ours_engine.py PREFIX STEPS wide|chain REPORT [flags of an experiment...]
"""

import time

BEGUN = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

from marin_sft import ExecutorStep, executor_main, step_fn, this_output_path  # noqa: E402

IMPORTED = time.perf_counter()


@dataclass(frozen=True)
class TrivialConfig:
    number: int
    upstream: ExecutorStep | None = None
    output_path: str = this_output_path()


@step_fn(kind="trivial")
def trivial(config: TrivialConfig) -> None:
    Path(config.output_path, "number.txt").write_text(str(config.number))


def make_steps(count: int, shape: str, first: ExecutorStep | None = None) -> list[ExecutorStep]:
    """In a wide DAG, all steps use `first`; in a chain, only the first one does."""
    steps: list[ExecutorStep] = []
    for i in range(count):
        upstream = steps[-1] if steps and shape == "chain" else first
        steps.append(ExecutorStep(f"bench/{shape}{i}", trivial, TrivialConfig(i, upstream)))
    return steps


def main() -> None:
    prefix, count, shape, report, *flags = sys.argv[1:]
    executor_main(make_steps(int(count), shape), argv=["--prefix", prefix, *flags])
    seconds = {"imports": IMPORTED - BEGUN, "work": time.perf_counter() - IMPORTED}
    Path(report).write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
