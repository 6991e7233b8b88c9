"""The tokenizer that a command names: a directory or a step."""

import argparse

import pytest

from marin_sft.errors import RunFailed, UserError
from marin_sft.run.context import Context
from marin_sft.run.model_path import find_tokenizer
from tests.execution.conftest import pipeline  # noqa: F401


def test_a_tokenizer_is_a_directory_or_a_step(pipeline, tmp_path):  # noqa: F811
    pipeline.run(pipeline.step("tokenizers/mine"))
    context = Context(argparse.Namespace(json=False, prefix=str(pipeline.prefix)))
    (directory,) = (pipeline.prefix / "tokenizers").glob("mine-*")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/tokenizer.json").touch()
    assert find_tokenizer(context, str(tmp_path / "own")) == str(tmp_path / "own")
    for text in ("tokenizers/mine", f"tokenizers/{directory.name}", str(directory)):
        assert (directory / "1").samefile(find_tokenizer(context, text))
    with pytest.raises(
        UserError, match=r"no tokenizer 'tokenizers/min': no such directory, and no step .*'tokenizers/mine'"
    ):
        find_tokenizer(context, "tokenizers/min")
    (tmp_path / "no").write_text("")
    with pytest.raises(RunFailed):
        pipeline.run(pipeline.step("tokenizers/later", fail_while=str(tmp_path / "no")))
    with pytest.raises(UserError, match="^tokenizers/later-.* has no committed output: it is"):
        find_tokenizer(context, "tokenizers/later")
