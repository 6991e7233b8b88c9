import marin_sft
from marin_sft.execution import executor

PUBLIC = """
    THIS_OUTPUT_PATH CpuConfig Executor ExecutorFlags ExecutorStep GpuConfig InputName Run RuntimeEnv TpuPodConfig
    earlier_attempts execution_only executor_main omitted_when output_path_of step_fn this_output_path
    unversioned versioned
"""


def test_public_names():
    """A name that leaves this list breaks somebody's experiment; one that enters it has to be kept."""
    assert sorted(marin_sft.__all__) == sorted(PUBLIC.split())
    assert {name for name in vars(marin_sft) if not name.startswith("_")} >= set(marin_sft.__all__)


def test_marin_spelling():
    """`from marin.execution.executor import ...` works with only the package name changed."""
    for name in PUBLIC.split():
        assert getattr(executor, name) is getattr(marin_sft, name)
