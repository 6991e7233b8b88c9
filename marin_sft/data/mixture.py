"""The step that packs tokenized components into rows of one length, and says in which proportion to train on them.

    {output_path}/mixture.json                  seq_len, vocabulary, counts of each component, and the order of rows
    {output_path}/metrics.json                  totals of what is trained
    {output_path}/packs/{component}/{split}/    the rows, a .npy file for each array of `PackedRows` or `PairRows`

Tokens are not copied: rows point into the token caches. What a row is depends on what was tokenized: packing/kinds.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marin_sft import progress
from marin_sft.data.data_configs import LmDataConfig, is_count
from marin_sft.data.files import read_json, write_json
from marin_sft.data.packing.pair_limits import LIMITS
from marin_sft.data.tokenize import DOCUMENTS, TRAIN, VALIDATION
from marin_sft.errors import ConfigError, DataError
from marin_sft.execution.step import UnversionedValue, omitted_when, step_fn, this_output_path

if TYPE_CHECKING:
    from marin_sft.data.packing.kinds import Rows


@dataclass(frozen=True)
class MixtureConfig:
    """`data`: the components (outputs of `tokenize` steps), weights and policies. `seq_len`: tokens in a row.

    Of preference data, `seq_len` is the most that prompt and completion have together; `max_prompt_length` and
    `max_completion_length` the most that each has by itself, see `pair_limits`.
    """

    data: LmDataConfig
    seq_len: int
    output_path: str = this_output_path()
    max_prompt_length: int | None = omitted_when(None, default=None)
    max_completion_length: int | None = omitted_when(None, default=None)

    def __post_init__(self) -> None:
        if isinstance(self.seq_len, int) and self.seq_len < 2:
            raise ConfigError(f"seq_len={self.seq_len}; expected at least 2: a token and the one to predict from it")
        for name in LIMITS:
            value = getattr(self, name)
            # Without a token of the prompt the first of the completion could not be predicted.
            if value is not None and not isinstance(value, UnversionedValue) and not is_count(value):
                raise ConfigError(f"{name}={value!r}; expected at least 1 token, or None for no limit")


@step_fn(kind="mixture", version=2)
def mixture(config: MixtureConfig) -> None:
    """Write the packed rows of `config`.

    Raises:
        ConfigError: fields that only pairs can have, for documents, and the other way round.
        DataError: a component without the split it is used for, with another tokenizer than the others, of pairs where
            others are of documents, or without a document that can be trained at this `seq_len`; an over-long document
            under over_length="raise".
    """
    from marin_sft.data.packing.kinds import kind_of

    data = config.data
    stats = {name: _stats(directory) for name, directory in sorted(data.tokenized.items())}
    vocabulary = _common_vocabulary(stats)
    kind = kind_of(stats)
    fields = _fields_of(config, kind)
    components = _packed(config, kind, fields, stats)
    trained = {name: components[name][TRAIN] for name in data.training}
    about = {
        **({} if kind.kind == DOCUMENTS else {"kind": kind.kind, **fields}),
        "seq_len": config.seq_len,
        "pack": data.pack,
        "over_length": data.over_length,
        "vocabulary": vocabulary,
        "components": components,
        "order": {
            "stages": [_stage(start, weights, trained, data.weights_are) for start, weights in data.train_weights],
            "stop_strategy": data.stop_strategy,
            "shuffle": data.shuffle,
            "block_size": data.mixture_block_size,
            "max_train_batches": data.max_train_batches,
        },
    }
    totals = {
        key: sum(part[key] for part in trained.values()) for key in ("documents", "rows", "tokens", "trained_tokens")
    }
    write_json(f"{config.output_path}/mixture.json", about)
    write_json(f"{config.output_path}/metrics.json", totals)


def _packed(
    config: MixtureConfig, kind: type[Rows], fields: dict[str, Any], stats: dict[str, dict[str, Any]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Write the rows of each component and split; their counts."""
    from marin_sft.data.packing.packed_mixture import write_rows
    from marin_sft.data.packing.selection import select

    data = config.data
    pack = kind.packer(data, config.seq_len, fields)
    components: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in stats}
    for done, name in enumerate(stats):
        progress.report(done, len(stats), "components")
        there = [split for split in (TRAIN, VALIDATION) if split in stats[name]]
        selected = select(data, name, data.tokenized[name], there, kind.documents_each, kind.kind)
        for split, selection in selected.items():
            rows, counts = pack(name, selection)
            write_rows(config.output_path, name, split, rows)
            components[name][split] = {
                **counts,
                "source": rows.source,
                "rows": len(rows),
                "trained_tokens": int(rows.trained.sum()),
                "dropped": {**counts["dropped"], **selection.left_out},
            }
    progress.report(len(stats), len(stats), "components")
    return components


def _stage(start: int, weights: dict[str, float], trained: dict[str, Any], unit: str) -> dict[str, Any]:
    """From weights that count `unit` to shares of the rows, and what an epoch of these comes to."""
    of_rows = {
        name: weights[name] / (1 if unit == "rows" else part[unit] / part["rows"]) for name, part in trained.items()
    }
    total, rows = sum(of_rows.values()), sum(part["rows"] for part in trained.values())
    shares = {name: weight / total for name, weight in of_rows.items()}
    passes = {name: share * rows / trained[name]["rows"] for name, share in shares.items()}
    return {"start_step": start, "share_of_rows": shares, "times_seen_per_epoch": passes}


def _common_vocabulary(stats: dict[str, dict[str, Any]]) -> str:
    vocabularies = {name: about["vocabulary"] for name, about in stats.items()}
    if len(set(vocabularies.values())) > 1:
        raise DataError(f"components were made by different tokenizers: {vocabularies}; tokenize all with the same one")
    return next(iter(vocabularies.values()))


def _stats(directory: str) -> dict[str, Any]:
    try:
        return read_json(f"{directory}/stats.json")
    except FileNotFoundError as error:
        raise DataError(f"{directory}: no stats.json; expected the output of a tokenize step") from error


def _fields_of(config: MixtureConfig, kind: type[Rows]) -> dict[str, Any]:
    """The values of the fields that are for `kind` alone. Raises ConfigError when those of another kind are given."""
    from marin_sft.data.packing.kinds import KINDS

    for other in KINDS.values():
        values = {field: getattr(config, field) for field in other.fields if field not in kind.fields}
        given = {field: value for field, value in values.items() if value is not None}
        if given:
            raise ConfigError(f"{given}: the components hold no {other.called}, which these are for; expected None")
    return {field: getattr(config, field) for field in kind.fields}
