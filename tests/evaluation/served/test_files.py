"""What the files of an export say of themselves, and GGUF files that are not whole."""

import json
import shutil
from pathlib import Path

import pytest

from marin_sft.errors import ExportError
from marin_sft.evaluation.served.files import files_of
from marin_sft.export.gguf.file import write_gguf
from marin_sft.export.gguf.reading import read_gguf
from marin_sft.training.models.model_directory import ModelDirectory, write_json
from tests.published.releases import RELEASES, write


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    path = write(tmp_path_factory.mktemp("qwen") / "export", RELEASES["qwen 3"])
    write_gguf(str(path), "f32", title="qwen")
    return path


@pytest.fixture
def export(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "export"))


def files(path: Path, is_trained_with: bool = False):
    return files_of(str(path), ModelDirectory(str(path)), is_trained_with)


def change(path: Path, name: str, **fields: object) -> None:
    write_json(str(path), name, {**json.loads((path / name).read_text()), **fields})


def test_files_as_they_were_written_agree(export):
    found = files(export)
    length = json.loads((export / "config.json").read_text())["max_position_embeddings"]
    assert found.lengths["config.json"] == found.lengths["model-f32.gguf"] == found.llama_cpp == length
    assert found.length_difference() is None and len(set(found.templates.values())) == 1
    assert {"tokenizer_config.json", "model-f32.gguf"} <= {*found.templates} and found.is_length_confirmed


def test_a_raised_context_length_is_found_by_the_other_files(export):
    length = files(export).lengths["config.json"]
    change(export, "config.json", max_position_embeddings=2 * length)
    assert f"{2 * length} in config.json, {length} in model-f32.gguf" in files(export).length_difference()
    change(export, "tokenizer_config.json", model_max_length=length)
    assert "correct that of config.json" in files(export).length_difference()
    (export / "model-f32.gguf").unlink()
    assert "model_max_length); correct the wrong one" in files(export).length_difference()
    # The tokenizer of training may let less through than the model takes.
    assert files(export, is_trained_with=True).length_difference() is None
    change(export, "tokenizer_config.json", model_max_length=int(1e30))
    assert files(export).length_difference() is None and not files(export).is_length_confirmed


def test_the_template_file_comes_first_as_in_servers(export):
    (export / "chat_template.jinja").write_text("another")
    found = files(export)
    assert next(iter(found.templates)) == "chat_template.jinja" == found.odd_template
    assert ModelDirectory(str(export)).tokenizer().chat_template == "another"


@pytest.mark.parametrize("share", [0, 1e-5, 0.001, 0.01, 0.5, 0.999])
def test_a_gguf_file_that_is_cut_is_told(export, share):
    path = export / "model-f32.gguf"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ExportError, match="no whole GGUF file .*: it is damaged, or was cut while .*; copy it again"):
        files(export)


def test_another_file_under_that_name_is_told(export):
    path = export / "model-f32.gguf"
    path.write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(ExportError, match="2,200 bytes, no whole GGUF file .*magic"):
        read_gguf(str(path))
