"""The steps of steps.py: what each config names is there, and takes such a config."""

import inspect
from typing import get_type_hints

import pytest

from marin_sft import steps
from marin_sft.execution.step import StepConfig


def classes_below(of: type) -> list[type]:
    return [found for below in of.__subclasses__() for found in (below, *classes_below(below))]


NAMED = {
    cls.__name__: cls
    for cls in classes_below(StepConfig)
    if cls.__module__.startswith("marin_sft.") and "__step_body__" in vars(cls)
}


def test_the_configs_of_all_steps_are_looked_at():
    configs = {name for name, of in vars(steps).items() if name.endswith("Config") and "__step_body__" in vars(of)}
    assert configs <= NAMED.keys() and len(configs) >= 10


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_body_is_a_function_that_takes_the_config(name):
    function = NAMED[name].__step_body__.function()
    (parameter,) = inspect.signature(function).parameters
    assert get_type_hints(function)[parameter] is NAMED[name]
    assert function.__module__ == NAMED[name].__step_body__.module, "not where it is only imported"


def test_each_kind_is_of_one_config():
    kinds = [cls.__step_body__.kind.kind for cls in NAMED.values()]
    assert len(kinds) == len(set(kinds))
