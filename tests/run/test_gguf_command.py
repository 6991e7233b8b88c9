"""`marin-sft gguf` on exports that exist, here and in a bucket."""

import json
import os
import shutil

import gguf
import pytest

from marin_sft.export.gguf.file import write_gguf
from marin_sft.run.command import main
from tests.published.releases import RELEASES, write


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write(tmp_path_factory.mktemp("model") / "qwen", RELEASES["qwen 3"]))


def test_the_file_is_that_of_an_export(model, tmp_path, capsys):
    made = shutil.copytree(model, tmp_path / "export")
    write_gguf(str(made), "q8_0", title="qwen")
    output = tmp_path / "new/mine.gguf"
    assert main(["gguf", model, "-o", str(output), "--type", "q8_0", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert output.read_bytes() == (made / "model-q8_0.gguf").read_bytes()
    assert said["output"] == str(output) and said["bytes"] == output.stat().st_size
    theirs = (made / "Modelfile").read_text().replace("./model-q8_0.gguf", "./mine.gguf")
    assert (output.parent / "Modelfile").read_text() == theirs
    assert {path.name for path in output.parent.iterdir()} == {"mine.gguf", "Modelfile"}


def test_by_default_it_has_the_type_of_the_weights_also_in_a_bucket(model, tmp_path, capsys, gcs):
    import fsspec

    bucket = fsspec.filesystem("gs")
    bucket.put(f"{model}/", "bucket/gguf/model/", recursive=True)
    assert main(["gguf", "gs://bucket/gguf/model", "-o", "gs://bucket/gguf/out/mine.gguf"]) == 0
    assert "mine.gguf: " in capsys.readouterr().out
    assert {path.rpartition("/")[2] for path in bucket.find("bucket/gguf/out")} == {"mine.gguf", "Modelfile"}
    bucket.get("bucket/gguf/out/mine.gguf", str(tmp_path / "mine.gguf"))
    read = gguf.GGUFReader(tmp_path / "mine.gguf")
    stored = json.loads(open(f"{model}/config.json").read())["torch_dtype"]
    assert stored == "bfloat16" and read.tensors[0].tensor_type.name == "BF16"


@pytest.mark.parametrize(
    ("make", "output", "said"),
    [
        (None, "x.bin", "--output: expected the name of a .gguf file, got"),
        ("x.gguf", "x.gguf", "x.gguf: exists already; give another name or directory, or --force"),
        ("Modelfile", "x.gguf", "Modelfile: exists already"),
        (".files.json", "x.gguf", "is the output of a step, which stays as it is; expected another directory"),
    ],
)
def test_what_is_there_is_not_written_over(model, tmp_path, capsys, make, output, said):
    if make:
        (tmp_path / make).write_text("mine")
    before = sorted(os.listdir(tmp_path))
    assert main(["gguf", model, "-o", str(tmp_path / output)]) == 2
    assert said in capsys.readouterr().err and sorted(os.listdir(tmp_path)) == before


def test_what_is_no_model_is_told(model, tmp_path, capsys):
    for name in ("adapter", "alone"):
        (tmp_path / name).mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    (tmp_path / "alone/model.gguf").write_text("")
    for source in ("adapter", "alone", "alone/model.gguf"):
        assert main(["gguf", str(tmp_path / source), "-o", str(tmp_path / "x.gguf")]) == 2
    adapter, directory, file = capsys.readouterr().err.splitlines()
    assert "is an adapter: give the output of export(), which merges it into its base" in adapter
    assert "is no model" in directory and "is a file" in file
    assert all("a GGUF file alone cannot be read here: give the export" in said for said in (directory, file))
