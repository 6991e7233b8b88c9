"""Where the rows of a dataset lie and what they hold, as it is said in an experiment file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from marin_sft.data.sources import HfDataset
from marin_sft.errors import DataError, UserError
from marin_sft.recipes.hub_revisions import LATEST
from marin_sft.recipes.sources import refuse_held_out
from marin_sft.run.python_source import Call, Name

OWN_TEMPLATE = (
    "its text is not known here; the tokenizer's own chat template is used, which may differ: see `marin-sft preview`"
)
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


@dataclass(frozen=True)
class Rows:
    """source: a hub id, or a file, a directory or a glob. split, subset, revision: of a hub id.

    files: patterns of the repository's files to take; (): those of the split. most: take only so many rows.
    format: a call that makes the format. share: the weight in a mixture, where the tool says one.
    """

    source: str
    on_hub: bool
    split: str = "train"
    subset: str | None = None
    revision: str | None = None
    files: tuple[str, ...] = ()
    most: int | None = None
    format: Call = field(default_factory=lambda: chat_format())
    share: float | None = None

    @property
    def name(self) -> str:
        """For a step: the last part of the source, without its ending."""
        path = self.source.rstrip("/")
        name = path.rpartition("/")[2]
        if not self.on_hub:
            name = re.sub(r"(\.(jsonl?|ndjson|csv|tsv|parquet|arrow|gz|zst))+$", "", name)
            name = name if re.search(r"\w", name.replace("*", "")) else os.path.basename(os.path.dirname(path))
        return step_name(name) or "rows"

    @property
    def is_held_out(self) -> bool:
        """Whether its name says test or validation, which has to be allowed."""
        plain = isinstance(self.dataset(), str)
        try:
            refuse_held_out(self.source if plain else HfDataset(self.source, split=self.split), "")
        except UserError:
            return True
        return False

    @property
    def taken(self) -> str:
        """The split, or its first rows; of a slice, all."""
        return self.split if self.most is None or "[" in self.split else f"{self.split}[:{self.most}]"

    def dataset(self) -> object:
        """The argument of `default_tokenize`."""
        if not self.on_hub:
            return self.source
        options = {"revision": self.revision, "subset": self.subset}
        given = {name: value for name, value in options.items() if value is not None}
        given |= {"split": self.taken} if self.taken != "train" else {}
        return Call("HfDataset", (self.source,), given) if given or "/" not in self.source else self.source

    def documents(self) -> list[object]:
        """The sources of `tokenize`."""
        if not self.on_hub:
            return [self.source]
        if self.files:
            options: dict[str, object] = {"hf_dataset_id": self.source}
            options |= {"revision": self.revision} if self.revision else {}
            options["allow_patterns"] = list(self.files)
            return [Call("download", (self.name,), options)]
        plain = self.revision is None and self.subset is None and "/" in self.source
        return [Call("rows_of", (self.source if plain else self.dataset(), self.taken))]

    def count(self) -> int | None:
        """How many rows are taken; None: not known here."""
        if self.on_hub or not os.path.exists(self.source):
            return self.most
        from marin_sft.data.rows.row_files import count_rows, find_files  # loads more than planning may

        try:
            count = sum(count_rows(file) for file in find_files([self.source]))
        except DataError:
            return None
        return count if self.most is None else min(count, self.most)


def step_name(text: str) -> str:
    """What may stand in a step's name, in lower case."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._")


def is_on_hub(path: str) -> bool:
    """Whether `path` is a hub id. A file or directory of that name takes precedence, as in the tools."""
    return _HUB_ID.fullmatch(path) is not None and not os.path.exists(os.path.expanduser(path))


def chat_format(**keywords: object) -> Call:
    return Call("ChatLmDatasetFormat", keywords=keywords)


def with_revision(id: str, revision: str | None) -> str:
    return id if revision in (None, LATEST) else f"{id}@{revision}"


def messages_field(field: str) -> dict[str, object]:
    """Arguments of `ChatLmDatasetFormat`: rows with messages under `field`."""
    usual = field in ("messages", "conversations", "conversation")
    return {"shape": "messages", **({} if usual else {"messages_field": field})}


def text_format(column: str) -> Call:
    return Call("TextLmDatasetFormat", keywords={} if column == "text" else {"text_key": column})


def row_function(name: str) -> dict[str, object]:
    """Arguments of `ChatLmDatasetFormat`: the rows are read by a function that the file defines."""
    return {"formatting_func": Name(name)}
