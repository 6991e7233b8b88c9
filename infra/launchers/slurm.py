"""A Slurm batch script: Ray on all nodes of a job for one command, and an end that leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

from launchers.settings import RAY_NODE

_TEMPLATE = Path(__file__).with_name("slurm.sh")


def script() -> str:
    """The content for `sbatch`."""
    lines = "\n".join(f"export {name}={value}" for name, value in RAY_NODE.items())
    return _TEMPLATE.read_text().replace("# @ENVIRONMENT@\n", f"{lines}\n")
