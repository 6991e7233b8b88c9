import pytest

from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.examples import Dialogue, Preference, Rated, TextPreference
from marin_sft.data.messages.reading import BadRow, dialogue_of, example_of, examples_of

FORMAT = ChatLmDatasetFormat()
SYSTEM = {"role": "system", "content": "be brief"}
USER = {"role": "user", "content": "hi"}
GOOD, BAD = {"role": "assistant", "content": "ho"}, {"role": "assistant", "content": "no"}
MORE = {"role": "user", "content": "more"}
PAIR = Preference([USER], [GOOD], [BAD])


def reason_of(row, format=FORMAT):
    with pytest.raises(BadRow) as caught:
        examples_of(row, format)
    return caught.value.reason


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        # orpo-dpo-mix-40k
        {"source": "x", "chosen": [USER, GOOD], "rejected": [USER, BAD], "prompt": "hi", "question": "Hi!"},
        # ultrafeedback_binarized
        {
            "prompt": "hi",
            "messages": [USER, GOOD],
            "chosen": [USER, GOOD],
            "rejected": [USER, BAD],
            "score_chosen": 8.5,
        },
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "hi", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": "ho", "rejected": "no"},
        {"prompt": [USER], "chosen": GOOD, "rejected": BAD},
        # LLaMA-Factory
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "ho"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        {"chosen_messages": [USER, GOOD], "rejected_messages": [USER, BAD]},
        {"messages": [USER], "chosen": "ho", "rejected": "no"},
        {"instruction": "hi", "input": "", "chosen": "ho", "rejected": "no"},
        {"instruction": "hi", "chosen_response": "ho", "rejected_response": "no", "chosen_avg_rating": 5.0},
        {"question": "hi", "accepted": "ho", "rejected": "no"},
        {"system": "", "question": "hi", "chosen": "ho", "rejected": "no"},
        {"input": "hi", "chosen": "ho", "rejected": "no"},
        # hh-rlhf
        {"chosen": "\n\nHuman: hi\n\nAssistant: ho", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
        {"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": " ho".strip(), "rejected": "no"},
        # Nectar with two answers
        {
            "prompt": "\n\nHuman: hi\n\nAssistant: ",
            "answers": [{"answer": "no", "rank": 2}, {"answer": "ho", "rank": 1}],
        },
    ],
)
def test_one_pair_in_all_shapes(row):
    assert example_of(row, FORMAT) == PAIR


@pytest.mark.parametrize(
    "row",
    [
        {"system": "be brief", "question": "hi", "chosen": "ho", "rejected": "no"},
        {"system": "be brief", "prompt": "hi", "chosen": "ho", "rejected": "no"},
        {"chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]},
        {"system": "x", "chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]},
    ],
)
def test_system_turns(row):
    assert example_of(row, FORMAT) == Preference([SYSTEM, USER], [GOOD], [BAD])
    assert example_of(row, ChatLmDatasetFormat(drop_system=True)) == PAIR


def test_tools_and_template_arguments_come_along():
    row = {"prompt": "hi", "chosen": "ho", "rejected": "no", "tools": '[{"name": "f"}]'}
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert example_of(row, FORMAT) == Preference([USER], [GOOD], [BAD], tools)
    kwargs = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD], "chat_template_kwargs": {"x": 1}}
    assert example_of(kwargs, FORMAT) == Preference([USER], [GOOD], [BAD], None, {"x": 1})


@pytest.mark.parametrize(
    "chosen, rejected, common",
    [
        ([USER, GOOD, MORE, GOOD], [USER, GOOD, MORE, BAD], 3),
        ([USER, GOOD, MORE, BAD], [USER, BAD], 1),
        # One is where the other begins: the answer that they share is no prompt.
        ([USER, GOOD], [USER, GOOD, MORE, BAD], 1),
        ([USER, GOOD, MORE, GOOD], [USER, GOOD, SYSTEM, GOOD], 2),
        ([USER, GOOD, GOOD, BAD], [USER, GOOD, GOOD, GOOD], 3),
    ],
)
def test_the_prompt_is_what_both_have_in_common(chosen, rejected, common):
    read = example_of({"chosen": chosen, "rejected": rejected}, FORMAT)
    assert (read.prompt, read.chosen, read.rejected) == (chosen[:common], chosen[common:], rejected[common:])


def test_extra_keys_of_messages_do_not_part_a_prompt():
    row = {"chosen": [USER | {"id": 1}, GOOD], "rejected": [USER | {"id": 2}, BAD]}
    assert example_of(row, FORMAT) == Preference([USER | {"id": 1}], [GOOD], [BAD])


def test_turns_that_say_something_under_other_keys_alone_part_a_prompt():
    one, other = ({"role": "assistant", "content": "", "function_calls": call} for call in ("f(1)", "f(2)"))
    row = {"chosen": [USER, one, MORE, GOOD], "rejected": [USER, other, MORE, BAD]}
    assert example_of(row, FORMAT) == Preference([USER], [one, MORE, GOOD], [other, MORE, BAD])


def test_a_completion_that_begins_with_the_user():
    row = {"prompt": [USER, GOOD], "chosen": [MORE, GOOD], "rejected": [MORE, BAD]}
    assert example_of(row, FORMAT) == Preference([USER, GOOD], [MORE, GOOD], [MORE, BAD])


def test_a_prompt_that_is_repeated_behind_a_system_turn():
    row = {"prompt": [USER], "chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]}
    assert example_of(row, FORMAT) == Preference([SYSTEM, USER], [GOOD], [BAD])


@pytest.mark.parametrize(
    "row, pair",
    [
        ({"prompt": "2+2=", "chosen": "4", "rejected": "5"}, ("2+2=", "4", "5")),
        ({"chosen": "The sky is blue.", "rejected": "The sky is black."}, ("The sky is", " blue.", " black.")),
        ({"chosen": "The sky is", "rejected": "The sky isn't"}, ("The sky", " is", " isn't")),
        ({"chosen": "A b", "rejected": "A b c"}, ("A b", "", " c")),
        ({"chosen": "Q: a\nA: b", "rejected": "Q: a\nA: c"}, ("Q: a\nA:", " b", " c")),
    ],
)
def test_text_pairs(row, pair):
    assert example_of(row, FORMAT) == TextPreference(*pair)


def test_text_pairs_of_one_endless_word_take_no_time():
    word = "x" * 200_000
    assert reason_of({"chosen": word + "a", "rejected": word + "b"}) == "no_common_prompt"


def test_markers_of_several_turns():
    shared = "\n\nHuman: hi \n\nAssistant: ho\n\nHuman: more\n\nand more"
    row = {"chosen": shared + "\n\nAssistant: ho", "rejected": shared + "\n\nAssistant:no"}
    expected = [USER, GOOD, {"role": "user", "content": "more\n\nand more"}]
    assert example_of(row, FORMAT) == Preference(expected, [GOOD], [BAD])


def test_ranked_answers():
    answers = [{"answer": "b", "rank": 2.0}, {"answer": "a", "rank": 1.0}, {"answer": "c", "rank": 3.0}]
    answers += [{"answer": "as good", "rank": 1.0}]
    turns = [{"role": "assistant", "content": text} for text in "abc"]
    read = examples_of({"prompt": "\n\nHuman: hi\n\nAssistant: ", "answers": answers, "turns": 1}, FORMAT)
    assert read == [Preference([USER], turns[:1], turns[1:2]), Preference([USER], turns[:1], turns[2:])]
    assert examples_of({"prompt": "hi", "answers": answers[:2]}, FORMAT) == [TextPreference("hi", "a", "b")]


def test_ratings():
    messages = [USER, GOOD]
    for row in (
        {"messages": messages, "label": True},
        {"conversations": messages, "kto_tag": True},
        {"prompt": [USER], "completion": [GOOD], "label": True},
        {"prompt": "hi", "completion": "ho", "kto_tag": True},
        {"prompt": "hi", "generation": "ho", "label": True},
        {"input": "hi", "output": "ho", "label": True},
        {"instruction": "hi", "input": "", "output": "ho", "kto_tag": True},
        {"prompt": "hi", "response": "ho", "label": True},
        {"question": "hi", "answer": "ho", "label": True},
        {"question": "hi", "response": "ho", "kto_tag": "true"},
        {"question": "hi", "output": "ho", "label": True},
        {"prompt": "hi", "answer": "ho", "kto_tag": True},
        {"messages": messages, "kto_tag": 1},
    ):
        assert example_of(row, FORMAT) == Rated(Dialogue(messages), True)
        assert example_of({**row, "label": False, "kto_tag": None}, FORMAT).label is False
    assert dialogue_of({"messages": messages, "label": "greeting"}, FORMAT) == Dialogue(messages)
    assert (
        dialogue_of({"messages": messages, "label": True}, ChatLmDatasetFormat(shape="messages")).messages == messages
    )
    assert reason_of({"messages": messages, "kto_tag": "yes"}) == "bad_label"


@pytest.mark.parametrize("label", [0, 1, 0.0, "False", "true", "1"])
@pytest.mark.parametrize("row", [{"messages": [USER, GOOD]}, {"prompt": "hi", "completion": "ho"}])
def test_a_label_that_may_be_a_rating_is_not_guessed_at(row, label):
    with pytest.raises(BadRow, match=r"ambiguous_format: .*may be a rating .*'rated\w*' leaves out .*'\w+' ignores"):
        example_of({**row, "label": label}, FORMAT)
    unrated, shape = ("messages", "rated") if "messages" in row else ("prompt_completion", "rated_completion")
    expected = Rated(Dialogue([USER, GOOD]), label in (1, "true", "1"))
    assert example_of({**row, "label": label}, ChatLmDatasetFormat(shape=shape)) == expected
    assert example_of({**row, "good": label}, ChatLmDatasetFormat(columns={"label": "good"})) == expected
    assert not isinstance(example_of({**row, "label": label}, ChatLmDatasetFormat(shape=unrated)), Rated)
    assert example_of({"chosen": "a b", "rejected": "a c", "label": label}, FORMAT) == TextPreference("a", " b", " c")
    pair = {"messages": [USER], "chosen": [GOOD], "rejected": [{**GOOD, "content": "no"}], "label": label}
    assert isinstance(example_of(pair, FORMAT), Preference)
    for other in (2, 0.5, "spam", "", [0]):
        assert not isinstance(example_of({**row, "label": other}, FORMAT), Rated)


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [GOOD]}, "identical_pair"),
        ({"chosen": [USER, GOOD], "rejected": [USER, GOOD]}, "identical_pair"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "identical_pair"),
        ({"chosen": "b c", "rejected": "b c"}, "identical_pair"),
        ({"prompt": "a", "answers": [{"answer": "b", "rank": 1}]}, "identical_pair"),
        ({"chosen": [USER, GOOD], "rejected": [MORE, GOOD]}, "no_common_prompt"),
        ({"chosen": "ho", "rejected": "no"}, "no_common_prompt"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "no_common_prompt"),
        ({"chosen": [USER], "rejected": [USER, GOOD]}, "no_assistant_turn"),
        ({"chosen": [USER, GOOD], "rejected": [BAD]}, "bad_pair"),
        ({"prompt": "hi", "chosen": [GOOD], "rejected": "no"}, "bad_pair"),
        ({"chosen": "\n\nHuman: hi\n\nAssistant: ho", "rejected": "no"}, "bad_pair"),
        ({"prompt": [SYSTEM, USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "bad_pair"),
        ({"prompt": [MORE], "chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]}, "bad_pair"),
        ({"prompt": "hi", "chosen": [], "rejected": []}, "empty_dialogue"),
        ({"prompt": "hi", "chosen": 1, "rejected": 2}, "bad_messages"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "bad_messages"),
        ({"prompt": "hi", "question": "ha", "chosen": "a", "rejected": "b"}, "ambiguous_format"),
        ({"prompt": "hi", "answers": {"answer": "x", "rank": 1}}, "bad_pair"),
        ({"prompt": "hi", "answers": ["x", "y"]}, "bad_pair"),
        ({"prompt": "hi", "answers": [{"answer": "x", "rank": float("nan")}]}, "bad_pair"),
        ({"prompt": "hi", "answers": [{"rank": 1}, {"rank": 2}]}, "bad_messages"),
    ],
)
def test_bad_pairs(row, reason):
    assert reason_of(row) == reason
