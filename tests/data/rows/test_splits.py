"""Subsets and splits against what `datasets` itself loads from the same directory."""

import json
import shutil
from pathlib import Path

import datasets
import pytest

from marin_sft.data.rows.row_files import read_rows
from marin_sft.data.rows.splits import split_files, split_spans
from marin_sft.errors import DataError

BY_NAME = {
    "data/train-00000-of-00002.jsonl": 7,
    "data/train-00001-of-00002.jsonl": 4,
    "data/test-00000-of-00001.jsonl": 3,
    "data/odd_name-00000-of-00001.jsonl": 2,
}
BY_FOLDER = {"train/b.jsonl": 3, "train/a.jsonl": 2, "dev/x.jsonl": 4}
BY_KEYWORD = {"my_training_set.jsonl": 5, "my-val.jsonl": 2, "notes.txt": 0}
FLAT = {"one.jsonl": 3, "two/three.jsonl": 4, ".hidden.jsonl": 9, "__pycache__/x.jsonl": 9}
CONFIGURED = {"en/1.jsonl": 5, "en/2.jsonl": 2, "de/1.jsonl": 3, "rest/x.jsonl": 1}
CARD = """---
configs:
- config_name: en
  default: true
  data_files:
  - split: train
    path: en/*
  - split: test
    path: rest/x.jsonl
- config_name: de
  data_files: de/1.jsonl
---
# Text
"""


def repository(root: Path, rows: dict[str, int], card: str = "# No card") -> str:
    for name, count in rows.items():
        path = root / "repo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"from": name, "i": i}) + "\n" for i in range(count)))
    (root / "repo").mkdir(parents=True, exist_ok=True)
    (root / "repo/README.md").write_text(card)
    # What a downloaded one has beside.
    (root / "repo/.provenance.json").write_text('{"id": "org/chats"}')
    return str(root / "repo")


def rows_of(directory: str, split: str, subset: str | None = None) -> list[dict]:
    return [row.row for s in split_spans(directory, split, subset) for row in read_rows(s.file, s.start, s.stop)]


@pytest.mark.parametrize(
    "rows, card, subset, splits",
    [
        (BY_NAME, "", None, ["train", "test", "odd_name", "train[:2]", "train[5:9]", "train[-3:]", "train[50%:]+test"]),
        (BY_NAME, "", None, ["train[:33%]", "test+train[1:-1]"]),
        (BY_FOLDER, "", None, ["train", "validation", "validation[1:2]"]),
        (BY_KEYWORD, "", None, ["train", "validation"]),
        (FLAT, "", None, ["train"]),
        (CONFIGURED, CARD, None, ["train", "test", "train[4:6]"]),
        (CONFIGURED, CARD, "de", ["train"]),
    ],
)
def test_as_datasets_does(tmp_path, rows, card, subset, splits):
    directory = repository(tmp_path, rows, card)
    for split in splits:
        expected = datasets.load_dataset(directory, subset, split=split, cache_dir=str(tmp_path / "cache"))
        assert rows_of(directory, split, subset) == expected.to_list() != [], split


def test_all_and_remote(tmp_path):
    import fsspec

    local = repository(tmp_path, CONFIGURED, CARD)
    remote = f"memory://{tmp_path.name}/repo"
    fsspec.filesystem("memory").put(local, remote, recursive=True)
    try:
        assert rows_of(remote, "all") == rows_of(local, "train+test") and len(rows_of(local, "all")) == 8
        assert [file.name for file in split_files(remote)["train"]] == ["en/1.jsonl", "en/2.jsonl"]
    finally:
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def test_what_is_not_there(tmp_path):
    directory = repository(tmp_path, CONFIGURED, CARD)
    for arguments, message in [
        (("validation",), "no split 'validation'; there are train, test"),
        (("train", "fr"), r"subset 'fr'.*\['en', 'de'\]"),
        (("train[:10",), "split 'train\\[:10'"),
    ]:
        with pytest.raises(DataError, match=message) as raised:
            split_spans(directory, *arguments)
        assert directory in str(raised.value)
    no_default = CARD.replace("  default: true\n", "")
    with pytest.raises(DataError, match="(?s)en.*de"):
        split_files(repository(tmp_path / "2", CONFIGURED, no_default))
    with pytest.raises(DataError, match="cannot resolve subset"):
        split_files(repository(tmp_path / "3", {}))


def test_what_cannot_be_honoured(tmp_path):
    directory = repository(
        tmp_path, {"data.csv": 0}, "---\nconfigs:\n- config_name: a\n  data_files: data.csv\n  sep: ;\n---"
    )
    with pytest.raises(DataError, match="asks for sep=';'"):
        split_files(directory)
    directory = repository(tmp_path / "tsv", {"data.tsv": 0})
    Path(directory, "data.tsv").write_text("a\tb\n1\t2\n")
    assert rows_of(directory, "train") == [{"a": "1", "b": "2"}]
    directory = repository(tmp_path / "text", {"notes.txt": 1})
    with pytest.raises(DataError, match=r"cannot read 'notes.txt'"):
        split_files(directory)
    directory = repository(tmp_path / "script", {**FLAT, "chats.py": 0})
    with pytest.raises(DataError, match="loading script chats.py.*refs/convert/parquet"):
        split_files(directory)
    shutil.move(f"{directory}/chats.py", f"{directory}/helper.py")
    assert len(rows_of(directory, "train")) == 7
