"""Which rows of a dataset repository, downloaded to a directory, make up a subset and a split.

    for span in split_spans(directory, "train[:10%]", subset="en"):
        for file, line, row in read_span(span): ...

The `datasets` library decides, so its rules hold: `configs` in the README's YAML, or names of files and folders. It
sees only file names, not the data, so the data may be in an object store.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from marin_sft.data.files import open_file, read_json
from marin_sft.data.rows.blocks import count_files, count_of
from marin_sft.data.rows.row_files import files_below, is_readable
from marin_sft.data.rows.saved_datasets import saved_splits
from marin_sft.data.rows.source_rows import SourceFile, Span
from marin_sft.errors import DataError
from marin_sft.nearest import listed

if TYPE_CHECKING:
    from datasets import BuilderConfig

# Files whose content defines subsets and splits.
_CARDS = ("README.md", ".huggingface.yaml", "dataset_infos.json")
# Settings of a subset in `configs` that do not change how files are read. Features are types, which our files hold
# themselves; the rest are names.
_HARMLESS = {"name", "version", "data_dir", "data_files", "description", "features"}
_PARQUET_REVISION = "refs/convert/parquet"


def split_files(directory: str, subset: str | None = None) -> dict[str, list[SourceFile]]:
    """The files of every split of `subset` (None: the default one), in the order in which `datasets` reads them.

    Args:
        directory: a downloaded dataset repository: a local path or any fsspec URL.

    Raises:
        DataError: no such subset, several subsets without a default, no data files, unreadable kinds of files, a
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
            # Looks at names and cards only; downloads nothing.
            builder = datasets.load_dataset_builder(str(root / "repository"), subset, cache_dir=str(root / "cache"))
        except (ValueError, FileNotFoundError, TypeError) as error:
            text = str(error).replace(str(root / "repository"), directory)
            raise DataError(f"{directory}: cannot resolve subset {subset!r}: {text}") from error
    _refuse_parameters(directory, builder.config)
    prefix = f"{root / 'repository'}/"
    splits = {
        str(split): [files[str(path).removeprefix(prefix)] for path in paths]
        for split, paths in (builder.config.data_files or {}).items()
    }
    unreadable = [file.name for found in splits.values() for file in found if not is_readable(file.path)]
    if unreadable:
        raise DataError(f"{directory}: cannot read {unreadable[0]!r}; expected tables or JSON rows")
    return splits


def split_spans(
    directory: str, split: str = "train", subset: str | None = None, copies: str | None = None
) -> list[Span]:
    """The rows of a split or of slices of splits, in order, as spans of files. No span is empty.

    Args:
        split: as `datasets` spells it: `train`, `train[:10%]`, `train[100:200]`, `train+test`, `all`.
        copies: as for `count_files`.

    Raises:
        DataError: as `split_files`, a missing split, or a slice that `datasets` does not understand.
    """
    import datasets

    files = split_files(directory, subset)
    instruction = "+".join(files) if split == "all" else split
    try:
        wanted = datasets.ReadInstruction.from_spec(instruction)
        named = {part.splitname for part in wanted._relative_instructions}
        if unknown := named - files.keys():
            missing = sorted(unknown)[0]
            raise ValueError(f"no split {missing!r}; there are {listed(files, missing)}")
        whole = {name: count_files(files[name], copies and f"{copies}/{name}") for name in files if name in named}
        slices = wanted.to_absolute({name: count_of(spans) for name, spans in whole.items()})
    except (ValueError, AssertionError) as error:
        raise DataError(f"{directory}: split {split!r}, subset {subset!r}: {error}") from error
    return [span for s in slices for span in _cut(whole[s.splitname], s.from_, s.to)]


def _cut(whole: Sequence[Span], start: int, stop: int) -> list[Span]:
    """Rows `start` to `stop` of the concatenated files."""
    begins = accumulate((span.stop for span in whole), initial=0)
    spans = [
        dataclasses.replace(span, start=max(start - begin, 0), stop=min(stop - begin, span.stop))
        for span, begin in zip(whole, begins, strict=False)
    ]
    return [span for span in spans if span.start < span.stop]


def _refuse_script(directory: str, files: dict[str, SourceFile]) -> None:
    """Refuse a repository with a loading script named after it, which `datasets` no longer runs."""
    try:
        name = read_json(f"{directory.rstrip('/')}/.provenance.json")["id"].split("/")[-1]
    except FileNotFoundError:
        return
    if f"{name}.py" in files:
        raise DataError(
            f"{directory}: its rows are made by the loading script {name}.py, which is not run; download revision "
            f"{_PARQUET_REVISION!r}, which has them as files, or make the rows in a step of your own"
        )


def _refuse_parameters(directory: str, config: BuilderConfig) -> None:
    plain = type(config)()
    changed = [
        field.name
        for field in dataclasses.fields(config)
        if field.name not in _HARMLESS and getattr(config, field.name) != getattr(plain, field.name)
    ]
    # For a .tsv file, the library sets this parameter itself.
    if changed == ["sep"] and config.sep == "\t" and all(_is_tsv(p) for ps in config.data_files.values() for p in ps):
        return
    if changed:
        given = ", ".join(f"{name}={getattr(config, name)!r}" for name in changed)
        raise DataError(
            f"{directory}: subset {config.name!r} asks for {given}, which is not supported; "
            "make the rows from the files in a step of your own"
        )


def _is_tsv(path: str) -> bool:
    return ".tsv" in Path(path).suffixes


def _bytes_of(file: SourceFile) -> bytes:
    with open_file(file.path, "rb") as stream:
        return stream.read()
