"""A user's directory, and what is run there."""

import json
import os
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """`told`: what the process printed, on both streams."""

    code: int
    out: str
    told: str


@dataclass(frozen=True)
class Desk:
    path: Path
    environment: Mapping[str, str]

    @staticmethod
    def at(path: Path, environment: Mapping[str, str]) -> "Desk":
        own = {"MARIN_SFT_PREFIX": str(path / "store"), "JAX_PLATFORMS": "cpu", "WANDB_MODE": "offline"}
        keys = ("WANDB_API_KEY", "HF_TOKEN")
        kept = {name: value for name, value in os.environ.items() if name not in keys}
        return Desk(path, {**kept, **environment, **own})

    def write(self, name: str, content: object) -> Path:
        """A file: a text, without its indentation, or rows as JSON."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content) if isinstance(content, str) else json.dumps(content))
        return path

    def run(self, command: str, **environment: str) -> Done:
        """A command as a shell would run it; `python` and `torchrun` are those of this test."""
        words = shlex.split(command.replace("\\\n", " "))
        programs = {
            "python": [sys.executable],
            "torchrun": [sys.executable, "-m", "torch.distributed.run"],
        }
        done = subprocess.run(
            [*programs[words[0]], *words[1:]],
            env={**self.environment, **environment},
            cwd=self.path,
            capture_output=True,
            text=True,
        )
        return Done(done.returncode, done.stdout, done.stdout + done.stderr)

    def trained(self, command: str, **environment: str) -> Done:
        """A command that must do what it is told."""
        done = self.run(command, **environment)
        assert done.code == 0, done.told
        return done

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.path / name).read_text().splitlines()]

    def names(self, name: str) -> set[str]:
        return {path.name for path in (self.path / name).iterdir()}
