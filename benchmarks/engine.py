"""What the engine itself costs, with steps that do next to nothing, on local disk.

python benchmarks/engine.py [--steps 1000] [--chain 20]
"""

import argparse
import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marin_sft import Executor, ExecutorFlags, ExecutorStep, step_fn, this_output_path


@dataclasses.dataclass(frozen=True)
class TrivialConfig:
    number: int
    upstream: Any = None
    output_path: str = this_output_path()


@step_fn(kind="trivial")
def trivial(config: TrivialConfig) -> None:
    Path(config.output_path, "number.txt").write_text(str(config.number))


def independent(count: int) -> list[ExecutorStep]:
    return [ExecutorStep(f"bench/s{i}", trivial, TrivialConfig(i)) for i in range(count)]


def chain(length: int) -> ExecutorStep:
    last: ExecutorStep | None = None
    for i in range(length):
        last = ExecutorStep(f"chain/s{i}", trivial, TrivialConfig(i, last))
    assert last is not None
    return last


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def seconds(steps: list[ExecutorStep], **flags: Any) -> float:
    begun = time.perf_counter()
    with quiet():
        Executor(ExecutorFlags(**flags)).run(steps)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--chain", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as prefix:
        steps = independent(arguments.steps)
        new = seconds(steps, prefix=prefix, backend="inline")
        plan = seconds(independent(arguments.steps), prefix=prefix, dry_run=True)
        cached = seconds(independent(arguments.steps), prefix=prefix, backend="inline")
        print(f"{arguments.steps} new steps, inline       {new:7.2f} s  {1000 * new / arguments.steps:7.2f} ms each")
        print(f"{arguments.steps} cached steps, planned   {plan:7.2f} s")
        print(f"{arguments.steps} cached steps, a launch  {cached:7.2f} s")
        # A second, shorter chain takes out what it costs to start and stop Ray.
        short, long = (
            seconds([chain(1)], prefix=prefix + "/1"),
            seconds([chain(arguments.chain + 1)], prefix=prefix + "/2"),
        )
        link = 1000 * (long - short) / arguments.chain
        print(f"chain of {arguments.chain} on Ray            {long:7.2f} s  {link:7.2f} ms a link")
        print(f"to start and stop Ray     {short:7.2f} s")


if __name__ == "__main__":
    main()
