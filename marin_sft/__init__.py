"""marin_sft: experiment pipelines for LLM post-training. The names below are the public API.

Those of `marin_sft.trainers` are here, too (`import marin_sft as ed`); they are imported when they are first used.
"""

import importlib

from marin_sft.execution.executor import (
    THIS_OUTPUT_PATH,
    CpuConfig,
    Executor,
    ExecutorFlags,
    ExecutorStep,
    GpuConfig,
    InputName,
    Run,
    RuntimeEnv,
    TpuPodConfig,
    earlier_attempts,
    execution_only,
    executor_main,
    omitted_when,
    output_path_of,
    step_fn,
    this_output_path,
    unversioned,
    versioned,
)

__all__ = [
    "THIS_OUTPUT_PATH",
    "CpuConfig",
    "Executor",
    "ExecutorFlags",
    "ExecutorStep",
    "GpuConfig",
    "InputName",
    "Run",
    "RuntimeEnv",
    "TpuPodConfig",
    "earlier_attempts",
    "execution_only",
    "executor_main",
    "omitted_when",
    "output_path_of",
    "step_fn",
    "this_output_path",
    "unversioned",
    "versioned",
]

_ELSEWHERE = {"SFTDataset": "marin_sft.trainers.dataset", "utils": "marin_sft.trainers.utils"}


def __getattr__(name: str) -> object:
    """A name of `marin_sft.trainers`.

    Raises:
        AttributeError: no such name, with the nearest.
    """
    if name.startswith("__"):
        raise AttributeError(name)
    if name == "utils":
        return importlib.import_module(_ELSEWHERE[name])
    module = importlib.import_module(_ELSEWHERE.get(name, "marin_sft.trainers"))
    if name in _ELSEWHERE or name in module.__all__:
        return getattr(module, name)
    from marin_sft.nearest import nearest_text

    raise AttributeError(
        f"module 'marin_sft' has no attribute {name!r}{nearest_text(name, [*__all__, *module.__all__])}"
    )
