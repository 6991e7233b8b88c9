"""Directories that `datasets` saved."""

import shutil

import datasets
import pytest

from marin_sft.data.rows.row_files import find_files, read_rows
from marin_sft.data.rows.splits import split_files, split_spans
from marin_sft.errors import DataError

ROWS = [{"text": f"row {i}"} for i in range(7)]


def texts(path) -> list[str]:
    return [source.row["text"] for file in find_files([str(path)]) for source in read_rows(file)]


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(path, num_shards=3)
    return path


def test_the_rows_of_a_data_set(saved):
    expected = datasets.load_from_disk(str(saved))["text"]
    assert texts(saved) == list(expected) == [row["text"] for row in ROWS]
    # What a later `map` keeps beside them is no row.
    datasets.load_from_disk(str(saved)).map(lambda row: {"text": "mapped " + row["text"]}, load_from_cache_file=False)
    assert list(saved.glob("cache-*.arrow"))
    assert texts(saved) == texts(saved.parent) == [row["text"] for row in ROWS]
    assert [(span.file.name, span.start, span.stop) for span in split_spans(str(saved), "train[:3]")] == [
        ("data-00000-of-00003.arrow", 0, 3)
    ]


def test_a_table_that_is_missing(saved):
    (saved / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(DataError, match="state.json names 'data-00001-of-00003.arrow', which is missing"):
        find_files([str(saved)])


def test_several_splits(tmp_path):
    path = tmp_path / "both"
    parts = {"train": ROWS[:5], "test": ROWS[5:]}
    datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}).save_to_disk(path)
    with pytest.raises(DataError, match="both is a dataset with the splits train, test; name one, as in .*both/train"):
        find_files([str(path)])
    for name, rows in parts.items():
        assert texts(path / name) == [row["text"] for row in rows]
        assert [file.name for file in split_files(str(path))[name]] == [f"{name}/data-00000-of-00001.arrow"]
    assert [(s.file.name, s.stop) for s in split_spans(str(path), "test")] == [("test/data-00000-of-00001.arrow", 2)]
    shutil.rmtree(path / "test")
    (path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert texts(path) == [row["text"] for row in ROWS[:5]]


def test_files_of_the_same_names_by_others(tmp_path):
    (tmp_path / "state.json").write_text('[{"text": "Ohio"}]')
    (tmp_path / "dataset_info.json").write_text('[{"text": "about"}]')
    assert texts(tmp_path) == ["about", "Ohio"]
