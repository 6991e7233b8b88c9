"""The step that packs tokenized components into rows of one length, and says in which proportion to train on them.

    {output_path}/mixture.json                  seq_len, vocabulary, counts of each component, and the order of rows
    {output_path}/metrics.json                  totals of what is trained
    {output_path}/packs/{component}/{split}/    offsets.npy, docs.npy, starts.npy, trained.npy: see `PackedRows`

Tokens are not copied: rows point into the token caches. Of preference data a row is a pair, see pair_mixture.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marin_sft import progress
from marin_sft.data.files import read_array, read_json, write_array, write_json
from marin_sft.data.step_configs import PAIR_FIELDS, MixtureConfig
from marin_sft.data.tokenize import PAIRS, TRAIN, VALIDATION
from marin_sft.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from marin_sft.data.packing.over_length import Pieces
    from marin_sft.data.packing.selection import Selection

_READ_AT_ONCE = 1024


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Row r holds the pieces `offsets[r]` to `offsets[r + 1]`.

    Piece i begins at token `starts[i]` of document `docs[i]` in the component's token cache of split `source`, and goes
    on to its end or for seq_len tokens. `trained`: trained tokens of each row. All int64.
    """

    source: str
    offsets: np.ndarray
    docs: np.ndarray
    starts: np.ndarray
    trained: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


def mixture(config: MixtureConfig) -> None:
    """Write the packed rows of `config`.

    Raises:
        ConfigError: fields that only pairs can have, for documents, and the other way round.
        DataError: a component without the split it is used for, with another tokenizer than the others, of pairs where
            others are of documents, or without a document that can be trained at this `seq_len`; an over-long document
            under over_length="raise".
    """
    from marin_sft.data.packing.selection import select

    data = config.data
    vocabulary = _common_vocabulary(data.tokenized)
    of_pairs = _are_pairs(data.tokenized)
    write_split = _split_writer(config, of_pairs)
    components: dict[str, Any] = {}
    for done, (name, directory) in enumerate(sorted(data.tokenized.items())):
        progress.report(done, len(data.tokenized), "components")
        there = [split for split in (TRAIN, VALIDATION) if split in _stats(directory)]
        selections = select(data, name, directory, there, documents_each=2 if of_pairs else 1)
        components[name] = {split: write_split(config, name, split, some) for split, some in selections.items()}
    progress.report(len(components), len(components), "components")
    trained = {name: components[name][TRAIN] for name in data.training}
    about = {
        **({"kind": PAIRS, **{field: getattr(config, field) for field in PAIR_FIELDS}} if of_pairs else {}),
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


def _stage(start: int, weights: dict[str, float], trained: dict[str, Any], unit: str) -> dict[str, Any]:
    """From weights that count `unit` to shares of the rows, and what an epoch of these comes to."""
    of_rows = {
        name: weights[name] / (1 if unit == "rows" else part[unit] / part["rows"]) for name, part in trained.items()
    }
    total, rows = sum(of_rows.values()), sum(part["rows"] for part in trained.values())
    shares = {name: weight / total for name, weight in of_rows.items()}
    passes = {name: share * rows / trained[name]["rows"] for name, share in shares.items()}
    return {"start_step": start, "share_of_rows": shares, "times_seen_per_epoch": passes}


def _common_vocabulary(tokenized: dict[str, str]) -> str:
    vocabularies = {name: _stats(path)["vocabulary"] for name, path in sorted(tokenized.items())}
    if len(set(vocabularies.values())) > 1:
        raise DataError(f"components were made by different tokenizers: {vocabularies}; tokenize all with the same one")
    return next(iter(vocabularies.values()))


def _stats(directory: str) -> dict[str, Any]:
    try:
        return read_json(f"{directory}/stats.json")
    except FileNotFoundError as error:
        raise DataError(f"{directory}: no stats.json; expected the output of a tokenize step") from error


def _are_pairs(tokenized: dict[str, str]) -> bool:
    """Whether the components hold preference pairs. Raises DataError when only some of them do."""
    kinds = {
        name: any(_stats(path).get(split, {}).get("kind") == PAIRS for split in (TRAIN, VALIDATION))
        for name, path in sorted(tokenized.items())
    }
    if len(set(kinds.values())) > 1:
        pairs, documents = ([name for name, found in kinds.items() if found is which] for which in (True, False))
        raise DataError(
            f"components {pairs} hold preference pairs, and {documents} single documents; expected the same in all: "
            "make a mixture of each kind"
        )
    return next(iter(kinds.values()))


def _split_writer(config: MixtureConfig, of_pairs: bool) -> Callable[..., dict[str, Any]]:
    """What writes the rows of one split. Raises ConfigError for fields that rows of that kind cannot have."""
    if of_pairs:
        from marin_sft.data.packing.pair_mixture import pair_limits, write_pairs

        pair_limits(config)
        return write_pairs
    given = {field: getattr(config, field) for field in PAIR_FIELDS if getattr(config, field) is not None}
    if given:
        raise ConfigError(f"{given}: the components hold no preference pairs, which these are for; expected None")
    return _pack_split


def _pack_split(config: MixtureConfig, name: str, split: str, selection: Selection) -> dict[str, Any]:
    """Write the packed rows of one split; its counts."""
    from marin_sft.data.packing.over_length import pieces
    from marin_sft.data.packing.packs import pack

    chosen, lengths = selection.chosen, selection.cache.lengths[selection.chosen]
    try:
        some = pieces(lengths, config.seq_len, config.data.over_length)
    except DataError as error:
        raise DataError(f"{name}/{selection.source}: {error}") from error
    trained = _trained(selection, some)
    kept = trained > 0
    if not kept.any():
        raise DataError(
            f"{name}/{selection.source}: none of {len(chosen)} documents has a trained token within "
            f"seq_len={config.seq_len} (over_length={config.data.over_length!r}); raise seq_len"
        )
    docs, starts, piece_lengths, trained = chosen[some.docs[kept]], some.starts[kept], some.lengths[kept], trained[kept]
    policy = config.data.pack.get(name, True)
    packs = pack(piece_lengths, config.seq_len, None if policy is True else int(policy or 1))
    arrays = {
        "offsets": packs.offsets,
        "docs": docs[packs.docs],
        "starts": starts[packs.docs],
        "trained": packs.sums(trained),
    }
    for array, values in arrays.items():
        write_array(f"{config.output_path}/packs/{name}/{split}/{array}.npy", values)
    return {
        "source": selection.source,
        "documents": len(set(docs.tolist())),
        "rows": len(packs),
        "tokens": int(piece_lengths.sum()),
        "trained_tokens": int(trained.sum()),
        "truncated": some.truncated,
        "split": some.split,
        "dropped": {"over_length": some.dropped, "no_trained_token": int((~kept).sum()), **selection.left_out},
    }


def _trained(selection: Selection, some: Pieces) -> Any:
    """int64[pieces]: trained tokens of each piece. Only documents of which it is not all are read."""
    import numpy as np

    from marin_sft.data.token_cache import trained_tokens

    docs, cache = selection.chosen[some.docs], selection.cache
    trained = cache.trained[docs].copy()
    cut = np.flatnonzero(some.lengths < cache.lengths[docs])
    for first in range(0, len(cut), _READ_AT_ONCE):
        which = cut[first : first + _READ_AT_ONCE]
        spans = zip(cache.read(docs[which]), some.starts[which], some.lengths[which], strict=True)
        trained[which] = [trained_tokens(row.mask[start : start + length]) for row, start, length in spans]
    return trained


def read_mixture(path: str) -> dict[str, Any]:
    """The mixture.json of a mixture step's output. Raises DataError when there is none."""
    try:
        return read_json(f"{path}/mixture.json")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no mixture.json; expected the output of a mixture step") from error


def read_packs(path: str, component: str, split: str) -> PackedRows:
    """The packed rows of one component. Raises ConfigError for a mixture of preference pairs."""
    about = read_mixture(path)
    if about.get("kind") == PAIRS:
        raise ConfigError(f"{path}: a mixture of preference pairs; expected one of documents to train on")
    source = about["components"][component][split]["source"]
    names = ("offsets", "docs", "starts", "trained")
    return PackedRows(source, *(read_array(f"{path}/packs/{component}/{split}/{name}.npy") for name in names))
