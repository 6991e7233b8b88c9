import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from marin_sft.execution.executor import (
    Executor,
    ExecutorFlags,
    ExecutorStep,
    earlier_attempts,
    step_fn,
    this_output_path,
)


@dataclasses.dataclass(frozen=True)
class WriteConfig:
    """Writes `text` and the texts of the `inputs` that are there to `text.txt`; fails while `fail_while` exists."""

    text: str = ""
    inputs: Any = ()
    rate: float = 0.001
    fail_while: str | None = None
    output_path: str = this_output_path()
    earlier: tuple[str, ...] = earlier_attempts()


@step_fn(kind="write")
def write(config: WriteConfig) -> None:
    output = Path(config.output_path)
    with Path(output.parents[2] / "bodies.log").open("a") as log:
        log.write(f"{output.parent.name} {len(config.earlier)}\n")
    (output / "text.txt").write_text(config.text + "".join(Path(i, "text.txt").read_text() for i in config.inputs if i))
    if config.fail_while and Path(config.fail_while).exists():
        raise ValueError(f"{config.fail_while} exists")


@pytest.fixture
def pipeline(tmp_path, capsys):
    """A store, a way to make steps, to run them inline, and to see which bodies ran."""
    prefix = tmp_path / "store"

    def step(name: str, *inputs: Any, **fields: Any) -> ExecutorStep:
        override = fields.pop("override_output_path", None)
        config = WriteConfig(fields.pop("text", name), inputs=list(inputs), **fields)
        return ExecutorStep(name, write, config, override_output_path=override)

    def run(*steps: ExecutorStep, **flags: Any):
        flags = {"prefix": str(prefix), "backend": "inline", **flags}
        return Executor(ExecutorFlags(**flags)).run(list(steps))

    def plan(*steps: ExecutorStep, **flags: Any) -> dict[str, SimpleNamespace]:
        """The plan as --json prints it, by step name."""
        capsys.readouterr()
        run(*steps, json=True, **flags)
        return {item["name"]: SimpleNamespace(**item) for item in json.loads(capsys.readouterr().out)}

    def bodies() -> list[str]:
        """The names of the steps whose bodies ran since the last call, in order."""
        logs = sorted(tmp_path.rglob("bodies.log"))
        names = [line.split()[0].rpartition("-")[0] for log in logs for line in log.read_text().splitlines()]
        for log in logs:
            log.unlink()
        return names

    return SimpleNamespace(prefix=prefix, step=step, run=run, plan=plan, bodies=bodies)
