"""The Python that a training step of ours runs in."""

from __future__ import annotations

import sys

from marin_sft.execution.ray_backend import fresh_process_variables

STEP_PYTHON = ["env", *(f"{name}={value}" for name, value in fresh_process_variables({"CPU"}).items()), sys.executable]
"""Of a command: this one, with the environment that the worker of such a step has."""
