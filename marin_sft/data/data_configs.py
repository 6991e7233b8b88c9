"""Which tokenized datasets to train and validate on, in what proportion. Light values, under Marin's names.

    data = lm_mixture_data_config(
        {"chat": tokenized_chat, "code": tokenized_code, "held_out": tokenized_held_out},
        {"chat": 3, "code": 1},
    )

The length of a row is not part of it: `default_sft` and `steps.mixture` add it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from marin_sft.arguments import NamedFields
from marin_sft.data.formats import check_choice
from marin_sft.errors import ConfigError
from marin_sft.execution.step import ExecutorStep, InputName, UnversionedValue, omitted_when
from marin_sft.inputs import Source
from marin_sft.nearest import did_you_mean, listed

Weights = Mapping[str, float]
Schedule = Sequence[tuple[int, Weights]]
WeightsAre = Literal["documents", "tokens", "rows"]
OverLength = Literal["truncate", "drop", "split", "raise"]
POLICIES: tuple[str, ...] = get_args(OverLength)
"""What to do with documents longer than a row; see packing/over_length."""
StopStrategy = Literal["restart", "first_exhausted", "all_exhausted"]

_NAME = re.compile(r"[A-Za-z0-9][\w.+@-]*(/[A-Za-z0-9][\w.+@-]*)*", re.ASCII)


OTHER_NAMES = dict.fromkeys(
    ("max_seq_length", "max_sequence_length", "max_length", "sequence_len", "max_seq_len", "cutoff_len"),
    "seq_len is the number of tokens in a row",
) | dict.fromkeys(("packing", "sample_packing"), "pack=False gives each document a row of its own")
"""Settings of mixtures in other trainers, and what to use for them."""


@dataclass(frozen=True, kw_only=True)
class LmDataConfig(metaclass=NamedFields):
    """Make one with `lm_data_config`, `lm_mixture_data_config` or another function of this module.

    A hash of their tokens decides which documents are held out or kept. It does not depend on their order, and equal
    documents stay together.
    """

    tokenized: dict[str, Any]
    """The tokenization step (or its output) of each component."""

    train_weights: tuple[tuple[int, dict[str, float]], ...]
    """Stages, (first training step, weight of each component). The first stage begins at step 0. Weights are relative
    to each other. A component whose weight is always 0 is for validation only."""

    weights_are: WeightsAre = "documents"
    """What the weights count: "documents", "tokens", or "rows" (packed rows, however full). A component with weight w
    gives w / sum(w) of them."""

    pack: dict[str, bool | int] = field(default_factory=dict)
    """For each component, whether its documents share rows. A number: at most this many documents per row."""

    over_length: OverLength = "truncate"
    """What to do with documents longer than a row, see packing/over_length."""

    stop_strategy: StopStrategy = "restart"
    """How long an epoch is. "restart": as many rows as all training components hold; small components repeat, and
    training may go on without end. The others end the data after one epoch: "first_exhausted" before any row repeats,
    "all_exhausted" once every row was used."""

    shuffle: bool | int = True
    """The order of a component's rows. True: random. n: random within windows of n rows. False: that of their
    documents."""

    mixture_block_size: int | None = None
    """Components come in random order within blocks of this many rows. None: as evenly as possible."""

    num_validation_sequences: dict[str, int] = field(default_factory=dict)
    """How many training documents of a component to hold out for validation."""

    max_documents: dict[str, int] = field(default_factory=dict)
    """The most documents to train on, by component."""

    max_train_batches: dict[str, int] = field(default_factory=dict)
    """The most batches of rows to train on, by component."""

    validation_fraction: float = omitted_when(0.0, default=0.0)
    """Share of the documents of a component to hold out for validation, unless it has a validation split or is in
    `num_validation_sequences`."""

    def __post_init__(self) -> None:
        if any(isinstance(value, UnversionedValue) for value in vars(self).values()):
            return  # checked once the values are plain
        for name in self.tokenized:
            _require(_NAME.fullmatch(name), f"component {name!r}", "letters, digits and . _ + @ - between slashes")
        _check_tokenizers(self.tokenized)
        _check_stages(self.train_weights, set(self.tokenized))
        check_choice("weights_are", self.weights_are, get_args(WeightsAre))
        check_choice("stop_strategy", self.stop_strategy, get_args(StopStrategy))
        check_choice("over_length", self.over_length, POLICIES)
        share = self.validation_fraction
        _require(0 <= share < 1, f"validation_fraction={share!r}", "a share of the documents, from 0 to below 1")
        for name in ("num_validation_sequences", "max_documents", "max_train_batches"):
            for component, value in getattr(self, name).items():
                _require(component in self.training, f"{name} names {component!r}", f"one to train: {self.training}")
                _require(is_count(value), f"{name}[{component!r}]={value!r}", "a whole number of at least 1")
        for component, value in self.pack.items():
            _require(component in self.tokenized, f"pack names {component!r}", f"one of {sorted(self.tokenized)}")
            holds = isinstance(value, bool) or is_count(value)
            _require(holds, f"pack[{component!r}]={value!r}", "True, False, or a number of documents")
        shuffles = isinstance(self.shuffle, bool) or is_count(self.shuffle)
        _require(shuffles, f"shuffle={self.shuffle!r}", "True, False, or a window of at least 1 row")
        block = self.mixture_block_size
        _require(block is None or is_count(block), f"mixture_block_size={block!r}", "at least 1, or None")

    @property
    def training(self) -> list[str]:
        """The components with a weight above 0 in some stage, sorted."""
        return sorted({name for _, weights in self.train_weights for name, weight in weights.items() if weight > 0})


def weights_of(name: str, components: Mapping[str, object]) -> Mapping[str, float]:
    """The weights of a mixture that is given none: one component needs none."""
    if len(components) == 1:
        return dict.fromkeys(components, 1.0)
    example = listed([f"{component!r}: 1" for component in components])
    raise ConfigError(
        f"mixture {name!r}: {len(components)} components and no weights; expected weights={{{example}}} in the "
        "proportion you want; to evaluate only, use mixture_for_evaluation"
    )


def lm_mixture_data_config(
    components: Mapping[str, Source],
    weights: Weights | Schedule,
    *,
    shuffle: bool | int = True,
    missing_weights_are_validation: bool = True,
    max_train_batches: Mapping[str, int] | None = None,
    num_validation_sequences: Mapping[str, int] | None = None,
    validation_fraction: float = 0.0,
    mixture_block_size: int | None = None,
    max_documents: Mapping[str, int] | None = None,
    weights_are: WeightsAre = "documents",
    stop_strategy: StopStrategy = "restart",
    pack: bool | int | None = None,
    over_length: OverLength = "truncate",
) -> LmDataConfig:
    """Train on `components` (tokenization steps by name) in the proportion of `weights`.

    A component without a weight is for validation only. pack=None: what each tokenization's format says, else True.
    For the other arguments, see `LmDataConfig`.

    Raises:
        ConfigError: a value that cannot be used, no positive weight, or components with different tokenizers.
    """
    stages = [(0, weights)] if isinstance(weights, Mapping) else weights
    data = LmDataConfig(
        tokenized=dict(components),
        train_weights=tuple(
            (start, _padded(some, components if missing_weights_are_validation else ())) for start, some in stages
        ),
        weights_are=weights_are,
        pack={name: _pack_of(source) if pack is None else pack for name, source in components.items()},
        over_length=over_length,
        stop_strategy=stop_strategy,
        shuffle=shuffle,
        mixture_block_size=mixture_block_size,
        num_validation_sequences=dict(num_validation_sequences or {}),
        validation_fraction=validation_fraction,
        max_documents=dict(max_documents or {}),
        max_train_batches=dict(max_train_batches or {}),
    )
    if not data.training:
        raise ConfigError(f"weights {weights}: expected one above 0; to evaluate only, use mixture_for_evaluation")
    return data


def lm_varying_mixture_data_config(
    components: Mapping[str, Source], weights_list: Schedule, **options: Any
) -> LmDataConfig:
    """As `lm_mixture_data_config`, with stages of weights: [(first training step, weights), ...], from step 0 on."""
    return lm_mixture_data_config(components, weights_list, **options)


def lm_data_config(
    training_set: ExecutorStep[Any], validation_sets: Mapping[str, Source] | None = None, **options: Any
) -> LmDataConfig:
    """Train on one tokenization step; `validation_sets` by name. `options` of `lm_mixture_data_config`.

    The training set is named by the last part of its step's name: "tokenized/smoltalk" is "smoltalk".
    """
    name = training_set.name.rpartition("/")[2]
    if name in (validation_sets or {}):
        raise ConfigError(f"validation_sets has {name!r}, which is the training set's name; expected another")
    return lm_mixture_data_config({name: training_set, **(validation_sets or {})}, {name: 1.0}, **options)


def mixture_for_evaluation(inputs: Mapping[str, Source]) -> LmDataConfig:
    """All of `inputs` (tokenization steps by name) for validation, none for training."""
    pack = {name: _pack_of(source) for name, source in inputs.items()}
    return LmDataConfig(tokenized=dict(inputs), train_weights=((0, _padded({}, inputs)),), pack=pack)


def add_validation_sets_to_mixture(data: LmDataConfig, validation_sets: Mapping[str, Source]) -> LmDataConfig:
    """`data` with more components to validate on. Those it already has stay as they are."""
    added = {name: source for name, source in validation_sets.items() if name not in data.tokenized}
    tokenized = {**data.tokenized, **added}
    return dataclasses.replace(
        data,
        tokenized=tokenized,
        train_weights=tuple((start, _padded(weights, tokenized)) for start, weights in data.train_weights),
        pack={**data.pack, **{name: _pack_of(source) for name, source in added.items()}},
    )


def interpolate_mixture_weights(mixture_weights: Sequence[Weights], weights: Sequence[float]) -> dict[str, float]:
    """The weighted mean of several mixtures' weights, each brought to a sum of 1 first; `weights` sum to 1."""
    _require(
        len(mixture_weights) == len(weights), f"{len(weights)} weights", f"{len(mixture_weights)}, one per mixture"
    )
    _require(math.isclose(sum(weights), 1.0, rel_tol=1e-5), f"weights {list(weights)}", "a sum of 1")
    mixed: dict[str, float] = {}
    for mixture, weight in zip(mixture_weights, weights, strict=True):
        total = sum(mixture.values())
        _require(total > 0, f"mixture {dict(mixture)}", "a weight above 0")
        for name, part in mixture.items():
            mixed[name] = mixed.get(name, 0.0) + weight * part / total
    return mixed


def _padded(weights: Weights, components: Iterable[str]) -> dict[str, float]:
    """The weights as floats, so that 1 and 1.0 are the same mixture; 0 for a component that has none."""
    given = {name: float(weight) if type(weight) is int else weight for name, weight in weights.items()}
    return {**given, **{name: 0.0 for name in components if name not in given}}


def _pack_of(source: object) -> bool | int:
    pack = getattr(getattr(_config_of(source), "format", None), "pack", None)
    return True if pack is None else pack


def _config_of(source: object) -> object:
    """The config of the step that makes `source`; None for a plain path."""
    step = source.step if isinstance(source, InputName) else source
    return getattr(step, "config", None)


def _check_tokenizers(components: Mapping[str, object]) -> None:
    """Compares where the tokenizers come from. The mixture step compares their vocabularies."""
    found: list[tuple[str, object]] = []
    for name, source in components.items():
        tokenizer = getattr(_config_of(source), "tokenizer", None)
        if tokenizer is not None and not any(_same(tokenizer, other) for _, other in found):
            found.append((name, tokenizer))
    if len(found) > 1:
        raise ConfigError(
            f"components have different tokenizers: {listed([f'{name}: {used!r}' for name, used in found])}; "
            "expected the same one for all"
        )


def _same(a: Any, b: Any) -> bool:
    """Whether two sources in configs are the same. Steps are if they have the same name, function and config."""
    if a is b or type(a) is not type(b):
        return a is b
    if isinstance(a, ExecutorStep):
        return a.name == b.name and a.fn is b.fn and _same(a.config, b.config)
    if dataclasses.is_dataclass(a):
        return all(_same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _check_stages(stages: Sequence[tuple[int, Weights]], components: set[str]) -> None:
    starts = [start for start, _ in stages]
    ascending = all(isinstance(start, int) for start in starts) and starts == sorted(set(starts))
    _require(starts[:1] == [0] and ascending, f"stages of weights from steps {starts}", "ascending steps, the first 0")
    for start, weights in stages:
        if set(weights) != components:
            stage = f" from step {start} on" if len(stages) > 1 else ""
            unknown = sorted(set(weights) - components)
            raise ConfigError(
                f"weights{stage} and components differ in {sorted(set(weights) ^ components)}: there are weights of "
                f"{sorted(set(weights))}, and the components {sorted(components)}; expected the same names (with "
                "missing_weights_are_validation=True, one without a weight is for validation only)"
                f"{did_you_mean(unknown[0], components) if unknown else ''}"
            )
        for name, weight in weights.items():
            _require(
                math.isfinite(weight) and weight >= 0, f"weights[{name!r}]={weight}", "a finite number of at least 0"
            )
    idle = [start for start, weights in stages if not any(weights.values())]
    _require(len(idle) in (0, len(stages)), f"no weight above 0 from step {idle[:1]} on", "one in each stage")


def is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require(holds: object, got: str, expected: object) -> None:
    if not holds:
        raise ConfigError(f"{got}; expected {expected}")
