"""The step that packs tokenized components into rows of one length, and says in which proportion to train on them.

    {output_path}/mixture.json                  seq_len, vocabulary, and per component its weight and counts
    {output_path}/metrics.json                  totals of what is trained
    {output_path}/packs/{component}/{split}/    offsets.npy, docs.npy: which documents share a row, see packing.Packs
                                                trained.npy: int64[rows], trained tokens of each row

Tokens are not copied: rows point into the token caches.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from marin_sft import progress
from marin_sft.data.files import read_array, read_json, write_array, write_json
from marin_sft.errors import ConfigError, DataError
from marin_sft.execution.step import step_fn, this_output_path

if TYPE_CHECKING:
    from marin_sft.data.packing import Packs
    from marin_sft.data.token_cache import TokenCache

_NAME = re.compile(r"[A-Za-z0-9][\w.+@-]*(/[A-Za-z0-9][\w.+@-]*)*", re.ASCII)
_OVER_LENGTH = ("truncate", "drop", "raise")
_READ_AT_ONCE = 1024


@dataclass(frozen=True)
class MixtureConfig:
    """`tokenized`: the output directory of a `tokenize` step for each component.

    `weights`: for each component, relative to each other, over packed rows; with weight 0 a component is used for
    validation only. `seq_len`: tokens in a row. `packing`: False puts each document in a row of its own.
    `over_length`: a document longer than `seq_len` keeps its first `seq_len` tokens ("truncate"), is left out ("drop")
    or fails the step ("raise").
    """

    tokenized: dict[str, str]
    weights: dict[str, float]
    seq_len: int
    packing: bool = True
    over_length: Literal["truncate", "drop", "raise"] = "truncate"
    output_path: str = this_output_path()

    def __post_init__(self) -> None:
        if set(self.tokenized) != set(self.weights):
            differ = sorted(set(self.tokenized) ^ set(self.weights))
            raise ConfigError(f"tokenized and weights differ in {differ}; expected the same names (weight 0: validate)")
        bad_names = [name for name in self.tokenized if not _NAME.fullmatch(name)]
        if bad_names:
            raise ConfigError(
                f"component name {bad_names[0]!r}; expected letters, digits and . _ + @ - between slashes"
            )
        if isinstance(self.over_length, str) and self.over_length not in _OVER_LENGTH:
            raise ConfigError(f"over_length={self.over_length!r}; expected one of {_OVER_LENGTH}")
        if isinstance(self.seq_len, int) and self.seq_len < 2:
            raise ConfigError(f"seq_len={self.seq_len}; expected at least 2: a token and the one to predict from it")
        if all(isinstance(weight, int | float) for weight in self.weights.values()):
            _check_weights(self.weights)


def _check_weights(weights: dict[str, float]) -> None:
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0:
            raise ConfigError(f"weights[{name!r}]={weight}; expected a finite number of at least 0")
    if not any(weights.values()):
        raise ConfigError(f"weights {weights}; expected at least one above 0")


@step_fn(kind="mixture", version=1)
def mixture(config: MixtureConfig) -> None:
    """Write the packed rows of `config`.

    Raises:
        DataError: a component without the split it is used for, with another tokenizer than the others, or without a
            document that can be trained at this `seq_len`; an over-long document under over_length="raise".
    """

    _check_weights(config.weights)
    components: dict[str, Any] = {}
    for done, (name, directory) in enumerate(sorted(config.tokenized.items())):
        progress.report(done, len(config.tokenized), "components")
        components[name] = {"weight": config.weights[name], **_pack_component(config, name, directory)}
    progress.report(len(components), len(components), "components")
    trained = [c["train"] for c in components.values() if c["weight"] > 0]
    totals = {key: sum(part[key] for part in trained) for key in ("documents", "rows", "tokens", "trained_tokens")}
    about = {
        "seq_len": config.seq_len,
        "packing": config.packing,
        "over_length": config.over_length,
        "vocabulary": _common_vocabulary(config.tokenized),
        "components": components,
    }
    write_json(f"{config.output_path}/mixture.json", about)
    write_json(f"{config.output_path}/metrics.json", totals)


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


def _pack_component(config: MixtureConfig, name: str, directory: str) -> dict[str, Any]:
    """Pack the splits of a component that are used: counts of each."""
    from marin_sft.data.token_cache import TokenCache

    there = [split for split in ("train", "validation") if split in _stats(directory)]
    if config.weights[name] > 0 and "train" not in there:
        raise DataError(f"component {name!r} has weight {config.weights[name]} and no train split; expected weight 0")
    # A component that is not trained is validated on its validation split, or else on all it has.
    used = there if config.weights[name] > 0 else there[-1:]
    return {split: _pack_split(config, TokenCache.open(f"{directory}/{split}"), f"{name}/{split}") for split in used}


def _pack_split(config: MixtureConfig, cache: TokenCache, name: str) -> dict[str, Any]:
    import numpy as np

    from marin_sft.data.packing import Packs, one_per_row, pack

    trained = _trained_within(cache, config)
    kept = np.flatnonzero(trained)
    arrange = pack if config.packing else one_per_row
    packs = arrange(cache.lengths[kept], config.seq_len, config.over_length)
    if len(packs) == 0:
        raise DataError(
            f"{name}: none of {len(cache)} documents has a trained token within seq_len={config.seq_len} "
            f"(over_length={config.over_length!r}); raise seq_len"
        )
    packs = Packs(packs.offsets, kept[packs.docs], packs.truncated, packs.dropped)
    trained_per_row = packs.sums(trained)
    directory = f"{config.output_path}/packs/{name}"
    write_array(f"{directory}/offsets.npy", packs.offsets)
    write_array(f"{directory}/docs.npy", packs.docs)
    write_array(f"{directory}/trained.npy", trained_per_row)
    return {
        "documents": len(packs.docs),
        "rows": len(packs),
        "tokens": int(np.minimum(cache.lengths[packs.docs], config.seq_len).sum()),
        "trained_tokens": int(trained_per_row.sum()),
        "truncated": packs.truncated,
        "dropped": {"over_length": packs.dropped, "no_trained_token": len(cache) - len(kept)},
    }


def _trained_within(cache: TokenCache, config: MixtureConfig) -> Any:
    """int64[documents]: trained tokens of each document, after truncation where the policy is to truncate."""
    import numpy as np

    from marin_sft.data.token_cache import trained_tokens

    trained = cache.trained.copy()
    if config.over_length == "truncate":
        over = np.flatnonzero(cache.lengths > config.seq_len)
        for start in range(0, len(over), _READ_AT_ONCE):
            documents = over[start : start + _READ_AT_ONCE]
            trained[documents] = [trained_tokens(row.mask[: config.seq_len]) for row in cache.read(documents)]
    return trained


def read_mixture(path: str) -> dict[str, Any]:
    """The mixture.json of a mixture step's output. Raises DataError when there is none."""
    try:
        return read_json(f"{path}/mixture.json")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no mixture.json; expected the output of a mixture step") from error


def read_packs(path: str, component: str, split: str) -> Packs:
    """The packed rows of one component; their documents are numbers in its token cache `{tokenized}/{split}`."""
    from marin_sft.data.packing import Packs

    directory = f"{path}/packs/{component}/{split}"
    return Packs(read_array(f"{directory}/offsets.npy"), read_array(f"{directory}/docs.npy"))
