"""The Python that our training steps run in."""

from __future__ import annotations

import sys

from marin_sft.execution.ray_environment import fresh_process_variables

STEP_PYTHON = ["env", *(f"{name}={value}" for name, value in fresh_process_variables({"CPU"}).items()), sys.executable]
"""The command prefix for this Python, with the environment of the worker of such a step."""
