import importlib.util

import pytest

from marin_sft.errors import ConfigError
from marin_sft.evaluation.lm_eval import LmEvalConfig, lm_eval, metrics, template_arguments


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="the harness is installed")
def test_without_the_harness_the_extra_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"pip install 'marin_sft\[eval\]'"):
        lm_eval(LmEvalConfig(model=str(tmp_path), tasks=("gsm8k",), output_path=str(tmp_path)))


def test_metrics_have_names_for_people():
    results = {
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,strict-match": 0.5,
            "exact_match_stderr,strict-match": "N/A",
            "exact_match,flexible-extract": 0.75,
        },
        "arc": {"acc,none": 1, "alias": "arc"},
    }
    assert metrics(results) == {
        "arc/acc": 1,
        "gsm8k/exact_match/strict-match": 0.5,
        "gsm8k/exact_match/flexible-extract": 0.75,
    }


def test_arguments_of_the_template_go_to_the_harness():
    from transformers.utils.chat_template_utils import render_jinja_template

    kwargs = {"enable_thinking": False}
    config = LmEvalConfig(model="m", tasks=("gsm8k",), chat_template_kwargs=kwargs, template_date="2025-01-02")
    template = "{{ strftime_now('%d %b %Y') }} {{ enable_thinking }}"
    assert render_jinja_template([[]], chat_template=template, **template_arguments(config))[0] == ["02 Jan 2025 False"]
    with pytest.raises(ConfigError, match="expected {} where apply_chat_template is False"):
        LmEvalConfig(model="m", tasks=("gsm8k",), chat_template_kwargs=kwargs, apply_chat_template=False)


def test_tasks_are_a_list():
    with pytest.raises(ConfigError, match="LmEvalConfig.tasks = 'gsm8k': expected a list of task names"):
        LmEvalConfig(model="m", tasks="gsm8k")
