import dataclasses
import inspect

import pytest

from marin_sft.data import formats as ours
from marin_sft.data.levanter_formats import from_levanter
from marin_sft.errors import ConfigError


@pytest.fixture(scope="module")
def levanter():
    return pytest.importorskip("levanter.data.text")


def test_each_of_levanters_formats(levanter):
    pairs = [
        (levanter.TextLmDatasetFormat(), ours.TextLmDatasetFormat()),
        (levanter.TextLmDatasetFormat(text_key="body"), ours.TextLmDatasetFormat(text_key="body")),
        (levanter.SupervisedLmDatasetFormat("q", "a"), ours.SupervisedLmDatasetFormat("q", "a")),
        (levanter.PrebuiltLmDatasetFormat("ids", "w"), ours.PrebuiltLmDatasetFormat("ids", "w")),
        (levanter.ChatLmDatasetFormat(), ours.ChatLmDatasetFormat()),
        (
            levanter.ChatLmDatasetFormat("turns", "{{ x }}", system_prompt="sys", pack=False, mask_user_turns=False),
            ours.ChatLmDatasetFormat("turns", "{{ x }}", False, columns={"system": "sys"}, pack=False),
        ),
        (levanter.ChatLmDatasetFormat(pack="pad"), ours.ChatLmDatasetFormat(pack=False)),
        (levanter.ChatLmDatasetFormat(pack=8), ours.ChatLmDatasetFormat(pack=8)),
        (levanter.PreferenceChatLmDatasetFormat("good", "bad"), ours.PreferenceChatLmDatasetFormat("good", "bad")),
        (
            levanter.PreferenceChatLmDatasetFormat(system_prompt="sys", chat_template="{{ x }}", mask_user_turns=False),
            ours.PreferenceChatLmDatasetFormat(system_prompt="sys", chat_template="{{ x }}", mask_user_turns=False),
        ),
    ]
    for theirs, expected in pairs:
        assert from_levanter(theirs) == expected
        assert from_levanter(expected) is expected


def test_what_cannot_be_said_is_refused(levanter):
    for theirs, field in (
        (levanter.ChatLmDatasetFormat(chat_template_kwargs="kwargs"), "chat_template_kwargs"),
        (levanter.ChatLmDatasetFormat(chat_template_kwargs=None), "chat_template_kwargs"),
        (levanter.PrebuiltLmDatasetFormat(loss_weight_transform=abs), "loss_weight_transform"),
        (levanter.PreferenceChatLmDatasetFormat(slice_strategy="left"), "slice_strategy"),
    ):
        with pytest.raises(ConfigError, match=f"'{field}': .*cannot be carried over"):
            from_levanter(theirs)
    for other in ("chat", {"messages_field": "x"}, object()):
        with pytest.raises(ConfigError, match="expected one of TextLmDatasetFormat, "):
            from_levanter(other)


def test_the_older_chat_format():
    old = dataclasses.make_dataclass(
        "ChatLmDatasetFormat",
        [
            ("messages_field", str, "messages"),
            ("single_turn", bool, False),
            ("chat_template", str | None, None),
            ("pack", bool, True),
            ("mask_user_turns", bool, True),
        ],
    )
    assert from_levanter(old(messages_field="turns")) == ours.ChatLmDatasetFormat(messages_field="turns")
    with pytest.raises(ConfigError, match="'single_turn': True"):
        from_levanter(old(single_turn=True))


def test_our_light_formats_have_levanters_names_and_fields(levanter):
    """Fields that Levanter does not have are given by name alone."""
    for name in ("TextLmDatasetFormat", "SupervisedLmDatasetFormat", "PrebuiltLmDatasetFormat"):
        mine, theirs = (inspect.signature(getattr(module, name)).parameters for module in (ours, levanter))
        mine = {name: field for name, field in mine.items() if field.kind is not field.KEYWORD_ONLY}
        assert [(p.name, p.default) for p in mine.values()] == [(p.name, p.default) for p in theirs.values()][
            : len(mine)
        ]
