"""Which rows of a dataset repository, downloaded to a directory, make up a subset and a split.

    for span in split_spans(directory, "train[:10%]", subset="en"):
        for file, line, row in read_rows(span.file, span.start, span.stop): ...

The `datasets` library decides, so its rules hold: `configs` in the README's YAML, or names of files and folders. It is
shown the directory's names only, not the data, which may therefore lie in an object store.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from marin_sft.data.files import open_file, read_json
from marin_sft.data.rows.row_files import count_rows, files_below, is_readable
from marin_sft.data.rows.saved_datasets import saved_splits
from marin_sft.data.rows.source_rows import SourceFile, Span
from marin_sft.errors import DataError
from marin_sft.execution.shards import map_shards

if TYPE_CHECKING:
    from datasets import BuilderConfig

# Files whose text decides on subsets and splits.
_CARDS = ("README.md", ".huggingface.yaml", "dataset_infos.json")
# What a subset's entry in `configs` may say without changing how a file is read: features are types, which files of
# ours carry themselves, and the rest are names.
_HARMLESS = {"name", "version", "data_dir", "data_files", "description", "features"}
_PARQUET_REVISION = "refs/convert/parquet"


def split_files(directory: str, subset: str | None = None) -> dict[str, list[SourceFile]]:
    """The files of every split of `subset` (None: the default one), in the order in which `datasets` reads them.

    Args:
        directory: a downloaded dataset repository: a local path or any fsspec URL.

    Raises:
        DataError: no such subset, no default among several, no data files, files of a kind that cannot be read, a
            loading script, or parameters of the subset that would change how files are read.
    """
    import datasets

    files = {file.name: file for file in files_below(directory)}
    if saved := saved_splits(files):
        return saved
    _refuse_script(directory, files)
    with tempfile.TemporaryDirectory() as skeleton:
        root = Path(skeleton).resolve()
        for name in files:
            path = root / "repository" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_bytes_of(files[name]) if name in _CARDS else b"")
        try:
            # Looks at names and cards; reads and downloads nothing.
            builder = datasets.load_dataset_builder(str(root / "repository"), subset, cache_dir=str(root / "cache"))
        except (ValueError, FileNotFoundError, TypeError) as error:
            text = str(error).replace(str(root / "repository"), directory)
            raise DataError(f"{directory}: subset {subset!r} cannot be made out: {text}") from error
    _refuse_parameters(directory, builder.config)
    prefix = f"{root / 'repository'}/"
    splits = {
        str(split): [files[str(path).removeprefix(prefix)] for path in paths]
        for split, paths in (builder.config.data_files or {}).items()
    }
    unreadable = [file.name for found in splits.values() for file in found if not is_readable(file.path)]
    if unreadable:
        raise DataError(
            f"{directory}: {unreadable[0]!r} is of a kind that cannot be read; expected tables or JSON rows"
        )
    return splits


def split_spans(directory: str, split: str = "train", subset: str | None = None) -> list[Span]:
    """The rows of a split or of slices of splits, in order: spans of files, none of them empty.

    Args:
        split: as `datasets` spells it: `train`, `train[:10%]`, `train[100:200]`, `train+test`, `all`.

    Raises:
        DataError: as `split_files` does; a split that is not there; a slice that `datasets` does not understand.
    """
    import datasets

    files = split_files(directory, subset)
    instruction = "+".join(files) if split == "all" else split
    try:
        wanted = datasets.ReadInstruction.from_spec(instruction)
        named = {part.splitname for part in wanted._relative_instructions}
        if unknown := named - files.keys():
            raise ValueError(f"no split {sorted(unknown)[0]!r}; there are {', '.join(files)}")
        counts = {name: map_shards(count_rows, files[name]) for name in files if name in named}
        slices = wanted.to_absolute({name: sum(rows) for name, rows in counts.items()})
    except (ValueError, AssertionError) as error:
        raise DataError(f"{directory}: split {split!r}, subset {subset!r}: {error}") from error
    return [span for s in slices for span in _cut(files[s.splitname], counts[s.splitname], s.from_, s.to)]


def _cut(files: Sequence[SourceFile], counts: Sequence[int], start: int, stop: int) -> list[Span]:
    """Rows `start` to `stop` of all files' rows, one after another."""
    begins = [0, *accumulate(counts)]
    spans = [
        Span(file, max(start - begin, 0), min(stop - begin, count))
        for file, begin, count in zip(files, begins, counts, strict=False)
    ]
    return [span for span in spans if span.start < span.stop]


def _refuse_script(directory: str, files: dict[str, SourceFile]) -> None:
    """A repository with a loading script named after it is a program, which `datasets` does not run any more."""
    try:
        name = read_json(f"{directory.rstrip('/')}/.provenance.json")["id"].split("/")[-1]
    except FileNotFoundError:
        return
    if f"{name}.py" in files:
        raise DataError(
            f"{directory}: its rows are made by the loading script {name}.py, and scripts of others are not run; "
            f"download revision {_PARQUET_REVISION!r}, which has them as files, or make the rows in a step of your own"
        )


def _refuse_parameters(directory: str, config: BuilderConfig) -> None:
    plain = type(config)()
    changed = [
        field.name
        for field in dataclasses.fields(config)
        if field.name not in _HARMLESS and getattr(config, field.name) != getattr(plain, field.name)
    ]
    # A .tsv file says by its name what the library then sets as a parameter.
    if changed == ["sep"] and config.sep == "\t" and all(_is_tsv(p) for ps in config.data_files.values() for p in ps):
        return
    if changed:
        given = ", ".join(f"{name}={getattr(config, name)!r}" for name in changed)
        raise DataError(
            f"{directory}: subset {config.name!r} asks for {given}, which cannot be honoured; "
            "make the rows from the files in a step of your own"
        )


def _is_tsv(path: str) -> bool:
    return ".tsv" in Path(path).suffixes


def _bytes_of(file: SourceFile) -> bytes:
    with open_file(file.path, "rb") as stream:
        return stream.read()
