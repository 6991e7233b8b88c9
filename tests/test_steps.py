"""The steps of steps.py: what each config names is there, and takes such a config."""

import inspect
import re
from typing import get_type_hints

import pytest

from marin_sft import steps
from marin_sft.errors import ConfigError
from marin_sft.execution.step import ExecutorStep, StepConfig


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


TOKENS = ExecutorStep("tokenized/mine", print, {})


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: steps.sft("a", mixture="mixtures/mine", base_model="m"),
            "sft 'a': mixture: expected a step that mixture()",
        ),
        (lambda: steps.sft("a", mixture=TOKENS, base_model="m"), "mixture() has made, got the step 'tokenized/mine'"),
        (
            lambda: steps.dpo("a", mixture=None, base_model="m"),
            "dpo 'a': mixture: expected a step that mixture() has made",
        ),
        (lambda: steps.reference_logprobs({"a": TOKENS}, "m"), "reference_logprobs: mixture: expected a step"),
        (lambda: steps.perplexity("a", "m", TOKENS), "perplexity 'a': data: expected a step that mixture() has made"),
        (
            lambda: steps.export("a", "checkpoints/a"),
            "export 'a': trained: expected a step that sft() or dpo() has made",
        ),
        (
            lambda: steps.mixture("a", TOKENS, seq_len=8),
            "mixture 'a': expected tokenization steps by name, like {'chat':",
        ),
    ],
)
def test_a_step_of_another_kind_is_refused_by_name(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()
