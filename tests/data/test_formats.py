import pickle
import subprocess
import sys

import pytest

from marin_sft.data.formats import (
    ChatLmDatasetFormat,
    PreferenceChatLmDatasetFormat,
    SupervisedLmDatasetFormat,
    TextLmDatasetFormat,
    shape_names,
)
from marin_sft.data.messages.examples import Dialogue, Preference, Text
from marin_sft.data.messages.reading import BadRow, example_of
from marin_sft.errors import ConfigError


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"input_field": "x", "output_field": "x"}, "two different role names"),
        ({"shape": "alpacca"}, r"shape='alpacca'; expected one of \[None, 'tokens', .*; did you mean 'alpaca'"),
        ({"shape": 3}, "shape=3; expected str or None"),
        ({"columns": ["q"]}, r"columns=\['q'\]; expected dict"),
        ({"columns": {"instruction": 3}}, "from strings to strings"),
        (
            {"columns": {"instrution": "q"}},
            "'instrution' is not one of our names; expected one of .*; did you mean 'instruction'",
        ),
        ({"columns": {"prompt": "x", "completion": "x"}}, "'x' is named twice"),
        ({"columns": {"messages": "a"}, "messages_field": "b"}, "expected one"),
        ({"columns": {"input_ids": "a", "segments": "b"}}, "no one shape knows all of"),
        ({"columns": {"prompt": "a"}, "shape": "alpaca"}, "the shape alpaca does not know all of"),
        ({"role_map": {"x": None}}, "role_map"),
        ({"formatting_func": "f"}, "expected a module-level function"),
        ({"formatting_func": len, "shape": "text"}, "both set"),
        ({"default_system": 3}, "default_system=3; expected str or None"),
        ({"drop_system": "yes"}, "drop_system='yes'; expected bool"),
        ({"chat_template_kwargs": "chat_template_kwargs"}, "expected dict"),
        ({"history_thinking": "kept"}, "did you mean 'keep'"),
        ({"train_on": "assistent"}, "did you mean 'assistant'"),
        ({"train_on": None}, "train_on=None; expected str"),
        ({"template_date": "26 Jul 2024"}, "template_date='26 Jul 2024'; expected a day, as in '2024-07-26'"),
        ({"special_tokens_in_text": "keeps"}, "did you mean 'keep'"),
        ({"allow_not_rendered": ("call",)}, "did you mean 'calls'"),
        ({"allow_not_rendered": "calls"}, "expected tuple"),
        (
            {"chat_template_kwargs": {"chat_template": "x"}},
            "The template itself is format.chat_template",
        ),
        ({"chat_template_kwargs": {"strftime_now": 1, "tools": []}}, r"has \['strftime_now', 'tools'\]"),
        ({"mask_user_turns": False, "train_on": "last"}, "expected one of them"),
        ({"pack": 0}, "pack=0"),
        ({"pack": "pad"}, "pack='pad'; expected bool or int or None"),
    ],
)
def test_values_that_cannot_be_used(fields, message):
    with pytest.raises(ConfigError, match=message):
        ChatLmDatasetFormat(**fields)


def test_special_tokens_of_texts_are_a_choice_of_three():
    with pytest.raises(ConfigError, match="add_special_tokens='no'; expected bool or None"):
        TextLmDatasetFormat(add_special_tokens="no")


def test_light_formats():
    user, good, bad = (
        {"role": role, "content": text} for role, text in (("user", "hi"), ("assistant", "ho"), ("assistant", "no"))
    )
    assert example_of({"body": "hi", "text": "x"}, TextLmDatasetFormat("body")) == Text("", "hi")
    assert example_of({"q": "hi", "a": "ho", "messages": []}, SupervisedLmDatasetFormat("q", "a")) == Text("hi", "ho")
    row = {"good": [user, good], "bad": [user, bad], "sys": "s", "messages": [user, good]}
    pair = Preference([user], [good], [bad])
    assert example_of(row, PreferenceChatLmDatasetFormat("good", "bad")) == pair
    system = {"role": "system", "content": "s"}
    named = PreferenceChatLmDatasetFormat("good", "bad", "{{ x }}", "sys", False, False)
    assert example_of(row, named) == Preference([system, user], [good], [bad])
    chat = named.as_chat()
    assert (chat.chat_template, chat.pack, chat.mask_user_turns) == ("{{ x }}", False, False)
    with pytest.raises(BadRow, match="missing_key: .*lacks text"):
        example_of({"body": "hi"}, TextLmDatasetFormat())


def test_every_shape_name_can_be_used():
    for name, about in shape_names().items():
        assert about and ChatLmDatasetFormat(shape=name).shape == name
    assert {"alpaca", "sharegpt", "openai", "preference", "text"} <= shape_names().keys()


def test_a_format_survives_a_pickle_and_an_equal_one_reads_alike():
    format = ChatLmDatasetFormat(role_map={"x": "user"}, columns={"messages": "m"})
    row = {"m": [{"role": "x", "content": "hi"}]}
    expected = Dialogue([{"role": "user", "content": "hi"}])
    assert example_of(row, format) == expected  # has filled the caches by now
    again = pickle.loads(pickle.dumps(format))
    assert again == format and example_of(row, again) == expected


def test_configs_are_light():
    code = (
        "import sys, marin_sft.data;"
        "sys.exit(str({'numpy', 'jax', 'ray', 'transformers', 'levanter', 'tokenizers'} & set(sys.modules) or ''))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == ""
