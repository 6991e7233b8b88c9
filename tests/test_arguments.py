"""Calls with a name that there is not, or without one that is needed."""

import copy
import dataclasses
import inspect
import pickle
import re
from dataclasses import dataclass, replace

import pytest

from experiments.simple_sft_config import SimpleSFTConfig
from marin_sft.arguments import NamedFields, named_arguments
from marin_sft.errors import ConfigError
from marin_sft.training.dpo_config import DPOConfig
from marin_sft.training.other_names import INSTEAD, OF_DEFAULTS
from marin_sft.training.sft_config import SFTConfig


@dataclass(frozen=True)
class Settings(metaclass=NamedFields):
    OTHER_NAMES = {"colour": "use paint"}  # noqa: RUF012

    width: int
    paint: str = "red"


@dataclass(frozen=True, kw_only=True)
class More(Settings):
    depth: int


def options(*, over_length="truncate", **rest): ...


@named_arguments(options=options)
def make(name, /, size, *, width=1, **given):
    return name, size, width, given


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Settings(1, pain="x"), "Settings has no field 'pain': did you mean 'paint'?"),
        (lambda: Settings(widht=1), "Settings has no field 'widht': did you mean 'width'?"),
        (lambda: Settings(1, colour="x"), "Settings has no field 'colour': use paint"),
        (lambda: More(1, dept=1), "More has no field 'dept': did you mean 'depth'?"),
        (lambda: Settings(), "Settings: 'width' is missing; it has no default: width=..."),
        (lambda: More(depth=1), "More: 'width' is missing"),
        (lambda: replace(Settings(1), pain="x"), "did you mean 'paint'?"),
        (lambda: make("a", 2, widht=3), "make() has no argument 'widht': did you mean 'width'?"),
        (lambda: make("a", 2, over_lenght=3), "make() has no argument 'over_lenght': did you mean 'over_length'?"),
        (lambda: make("a"), "make(): 'size' is missing; it has no default: size=..."),
    ],
)
def test_a_call_that_cannot_be_made(call, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        call()


def test_calls_that_can_be_made():
    for value in (Settings(1), Settings(width=1, paint="blue"), More(1, depth=2)):
        for same in (copy.deepcopy(value), pickle.loads(pickle.dumps(value)), replace(value)):
            assert same == value
    assert make("a", 2) == ("a", 2, 1, {}) and make("a", size=2, over_length="drop")[3] == {"over_length": "drop"}
    assert list(inspect.signature(More).parameters) == ["width", "paint", "depth"]


@pytest.mark.parametrize("of", [SFTConfig, DPOConfig, SimpleSFTConfig])
def test_what_is_said_to_be_used_is_there(of):
    """Names of other trainers are none of ours, and the settings that stand for them are."""
    ours = {field.name for field in dataclasses.fields(of)}
    answers = OF_DEFAULTS if of is SimpleSFTConfig else INSTEAD
    assert of.OTHER_NAMES is answers
    of_training = {field.name for field in dataclasses.fields(SFTConfig)}
    assert not INSTEAD.keys() & of_training
    exports = {"steps_per_hf_export"}  # of the step
    for name, answer in answers.items():
        used = re.match(r"use (\w+)", answer)
        assert used is None or name in ours or used.group(1) in ours | exports, (name, answer)
