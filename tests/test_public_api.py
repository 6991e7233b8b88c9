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


def test_module_paths_of_marin_and_levanter():
    """Their imports with only the package's name changed: the same objects as ours, not others of that name."""
    from marin_sft import data
    from marin_sft.data import text
    from marin_sft.processing import tokenize

    for module in (text, tokenize):
        assert {name for name in vars(module) if not name.startswith("_")} >= set(module.__all__)
        for name in set(module.__all__) & set(data.__all__):
            assert getattr(module, name) is getattr(data, name)
    assert text.LMMixtureDatasetConfig is data.LmDataConfig
    config = data.TokenizeConfig(("rows.jsonl",), "tokenizer")
    assert (
        marin_sft.ExecutorStep("tokenized/x", tokenize.tokenize, config).fn.path == "marin_sft.data.tokenize:tokenize"
    )
