"""The step that packs tokenized components into rows of one length, and sets their proportion in training.

    {output_path}/mixture.json                  seq_len, vocabulary, counts of each component, and the order of rows
    {output_path}/metrics.json                  totals of what is trained
    {output_path}/packs/{component}/{split}/    the rows, a .npy file for each array of `PackedRows` or `PairRows`

Tokens are not copied: rows point into the token caches. What a row is depends on what was tokenized: see packing/rows.
"""

from __future__ import annotations

from marin_sft import progress
from marin_sft.data.files import Json, read_json, write_json
from marin_sft.data.packing.packed_mixture import KINDS, rows_path
from marin_sft.data.packing.rows import Rows
from marin_sft.data.packing.selection import select
from marin_sft.data.step_configs import MixtureConfig
from marin_sft.data.tokenize import DOCUMENTS, TRAIN, VALIDATION
from marin_sft.errors import ConfigError, DataError


def mixture(config: MixtureConfig) -> None:
    """Write the packed rows of `config`.

    Raises:
        ConfigError: fields for pairs with documents, or the reverse.
        DataError: a component lacks the split it is used for, differs from the others in its tokenizer or its kind of
            data, or has no document to train on at this `seq_len`; or a document is too long, with over_length="raise".
    """
    data = config.data
    stats = {name: _stats(directory) for name, directory in sorted(data.tokenized.items())}
    vocabulary = _common_vocabulary(stats)
    kind = _kind_of(stats)
    _check_fields(config, kind)
    components = {}
    for done, name in enumerate(stats):
        progress.report(done, len(stats), "components")
        components[name] = _packed(config, kind, name, stats[name])
    progress.report(len(stats), len(stats), "components")
    trained = {name: components[name][TRAIN] for name in data.training}
    about = {
        **({} if kind.kind == DOCUMENTS else {"kind": kind.kind}),
        **{field: getattr(config, field) for field in kind.fields},
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


def _packed(config: MixtureConfig, kind: type[Rows], name: str, stats: Json) -> dict[str, Json]:
    """Write the rows of one component, and return the counts of each split."""
    there = [split for split in (TRAIN, VALIDATION) if split in stats]
    selections = select(config.data, name, config.data.tokenized[name], there, kind.documents_each, kind.kind)
    found = {}
    for split, selection in selections.items():
        rows, counts = kind.pack(config, name, selection)
        rows.write(rows_path(config.output_path, name, split))
        found[split] = {
            **counts,
            "source": rows.source,
            "rows": len(rows),
            "trained_tokens": int(rows.trained.sum()),
            "dropped": {**counts["dropped"], **selection.left_out},
        }
    return found


def _stage(start: int, weights: dict[str, float], trained: dict[str, Json], unit: str) -> Json:
    """Converts weights that count `unit` to shares of the rows, and says how often an epoch sees each component."""
    of_rows = {
        name: weights[name] / (1 if unit == "rows" else part[unit] / part["rows"]) for name, part in trained.items()
    }
    total, rows = sum(of_rows.values()), sum(part["rows"] for part in trained.values())
    shares = {name: weight / total for name, weight in of_rows.items()}
    passes = {name: share * rows / trained[name]["rows"] for name, share in shares.items()}
    return {"start_step": start, "share_of_rows": shares, "times_seen_per_epoch": passes}


def _common_vocabulary(stats: dict[str, Json]) -> str:
    vocabularies = {name: about["vocabulary"] for name, about in stats.items()}
    if len(set(vocabularies.values())) > 1:
        raise DataError(f"components were made by different tokenizers: {vocabularies}; tokenize all with the same one")
    return next(iter(vocabularies.values()))


def _stats(directory: str) -> Json:
    try:
        return read_json(f"{directory}/stats.json")
    except FileNotFoundError as error:
        raise DataError(f"{directory}: no stats.json; expected the output of a tokenize step") from error


def _kind_of(stats: dict[str, Json]) -> type[Rows]:
    """The kind of data that the components hold. Raises DataError if they differ."""
    names: dict[str, list[str]] = {}
    for name, about in stats.items():
        kinds = (about[split]["kind"] for split in (TRAIN, VALIDATION) if "kind" in about.get(split, {}))
        names.setdefault(next(kinds, DOCUMENTS), []).append(name)
    if len(names) > 1:
        documents = names.pop(DOCUMENTS, [])
        held = [f"{some} hold {KINDS[kind].called}" for kind, some in sorted(names.items())]
        held += [f"and {documents} single documents"] if documents else []
        raise DataError(f"components {', '.join(held)}; expected one kind: make a mixture for each")
    return KINDS[next(iter(names))]


def _check_fields(config: MixtureConfig, kind: type[Rows]) -> None:
    """Raises ConfigError for what rows of `kind` cannot have."""
    for other in KINDS.values():
        values = {field: getattr(config, field) for field in other.fields if field not in kind.fields}
        given = {field: value for field, value in values.items() if value is not None}
        if given:
            raise ConfigError(f"{given} with components that hold no {other.called}; expected None")
    kind.check(config)
