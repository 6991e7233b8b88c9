"""Where raw rows come from, as a light value: one subset and split of a dataset on the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass

from marin_sft.arguments import NamedFields


@dataclass(frozen=True)
class HfDataset(metaclass=NamedFields):
    """Rows of a dataset on the Hugging Face Hub."""

    id: str
    """`org/name`, or `name` for the few without an owner."""

    revision: str | None = None
    """A commit sha, tag or branch; None is `main`. Only a commit sha always means the same rows."""

    subset: str | None = None
    """What `datasets.load_dataset` takes as `name`; None is the dataset's default."""

    split: str = "train"
    """As `datasets` spells it, slices included: `train`, `train[:10%]`, `train[100:200]`, `train+test`, `all`."""
