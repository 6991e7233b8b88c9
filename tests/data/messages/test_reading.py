import pickle

import pytest

from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.examples import Dialogue, Text
from marin_sft.data.messages.reading import BadRow, dialogue_of, example_of, examples_of

FORMAT = ChatLmDatasetFormat()
USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
SYSTEM = {"role": "system", "content": "be brief"}


def reason_of(row, format=FORMAT, read=example_of):
    with pytest.raises(BadRow) as caught:
        read(row, format)
    assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message
    return caught.value.reason


ANSWERS = ("output", "answer", "response")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ASSISTANT]},
        {"messages": [USER | {"name": None}, ASSISTANT], "prompt": None},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
        {"conversations": [{"from": "user", "value": "hi"}, {"from": "assistant", "value": "ho"}]},
        {"conversation": [USER, ASSISTANT], "conversation_hash": "x", "toxic": False},
        {"messages": [USER | {"content": [{"type": "text", "text": "h"}, {"type": "text", "value": "i"}]}, ASSISTANT]},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": [USER], "completion": "ho"},
        {"prompt": "hi", "completion": [ASSISTANT]},
        {"prompt": "hi", "response": "ho"},
        {"instruction": "hi", "response": "ho"},
        {"instruction": "hi", "input": "", "output": "ho", "id": 3},
        {"instruction": "hi", "input": "", "output": "ho", "text": "### Instruction: hi ### Response: ho"},
        {"instruction": "hi", "context": "", "response": "ho", "category": "open_qa"},
        {"instruction": "hi", "answer": "ho"},
        {"instruction": "", "input": "hi", "output": "ho"},
        {"INSTRUCTION": "hi", "RESPONSE": "ho", "SOURCE": "oasst"},
        {"system_prompt": "", "question": "hi", "response": "ho", "id": "niv.1"},
        *({asked: "hi", said: "ho"} for asked in ("instruction", "question", "prompt") for said in ANSWERS),
        {"question": "hi", "output": "ho", "text": "Q: hi A: ho"},
        # Two shapes that say the same.
        {"instruction": "hi", "response": "ho", "conversations": [{"from": "human", "value": "hi"}, ASSISTANT]},
    ],
)
def test_one_dialogue_in_all_shapes(row):
    assert example_of(row, FORMAT) == Dialogue([USER, ASSISTANT])


def test_other_keys_of_messages_stay_for_the_template():
    more = {"toxic": False, "timestamp": 3, "header": {"lang": None, "agent": "x"}, "none": None, "raw": b"no JSON"}
    kept = [USER | {"toxic": False, "timestamp": 3, "header": {"agent": "x"}}, ASSISTANT]
    assert example_of({"messages": [USER | more, ASSISTANT], "model": "x"}, FORMAT) == Dialogue(kept)
    # They do not make another dialogue of it.
    both = {"messages": [USER | more, ASSISTANT], "instruction": "hi", "response": "ho"}
    assert example_of(both, FORMAT) == Dialogue(kept)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [SYSTEM, USER, ASSISTANT]},
        {"messages": [SYSTEM, USER, ASSISTANT], "system": "another: a message goes before the column"},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}], "system": "be brief"},
        {"system": "be brief", "prompt": [USER], "completion": [ASSISTANT]},
        {"system": "be brief", "prompt": "hi", "completion": "ho"},
        {"system": "be brief", "instruction": "hi", "input": None, "output": "ho"},
        {"system_prompt": "be brief", "question": "hi", "response": "ho"},
    ],
)
def test_one_system_turn_in_all_shapes(row):
    assert dialogue_of(row, FORMAT).messages == [SYSTEM, USER, ASSISTANT]
    assert dialogue_of(row, ChatLmDatasetFormat(default_system="x")).messages == [SYSTEM, USER, ASSISTANT]
    assert dialogue_of(row, ChatLmDatasetFormat(drop_system=True)).messages == [USER, ASSISTANT]
    replaced = ChatLmDatasetFormat(drop_system=True, default_system="x")
    assert dialogue_of(row, replaced).messages == [{"role": "system", "content": "x"}, USER, ASSISTANT]


def test_default_system():
    format = ChatLmDatasetFormat(default_system="be brief")
    assert dialogue_of({"instruction": "hi", "output": "ho"}, format).messages == [SYSTEM, USER, ASSISTANT]
    developer = {"role": "developer", "content": "x"}
    assert dialogue_of({"messages": [developer, USER, ASSISTANT]}, format).messages == [developer, USER, ASSISTANT]


def test_instruction_with_input_system_and_history():
    row = {"system": "s", "history": [["a", "b"], ["c", "d"]], "instruction": "add", "input": "1 2", "output": "3"}
    assert [m["content"] for m in dialogue_of(row, FORMAT).messages] == ["s", "a", "b", "c", "d", "add\n1 2", "3"]


def test_an_output_beside_another_answer_is_not_looked_at():
    """What such rows meant before a question could have an output, they mean."""
    for row in (
        {"question": "hi", "answer": "ho", "output": "x"},
        {"prompt": "hi", "response": "ho", "answer": "x"},
        {"messages": [USER, ASSISTANT], "prompt": "x", "answer": "x"},
    ):
        assert example_of(row, FORMAT) == Dialogue([USER, ASSISTANT])
    assert example_of({"prompt": "hi", "completion": "ho", "answer": "x"}, FORMAT) == Text("hi", "ho")
    with pytest.raises(BadRow, match="ambiguous_format"):
        example_of({"prompt": "hi", "question": "ha", "output": "x"}, FORMAT)


def test_question_with_context():
    for key in ("context", "article"):
        row = {key: "It is wet.", "question": "Is it dry?", "answer": "No."}
        assert example_of({**row, "answer": None, "output": "No."}, FORMAT) == example_of(row, FORMAT)
        assert [m["content"] for m in dialogue_of(row, FORMAT).messages] == ["It is wet.\n\nIs it dry?", "No."]


def test_columns_roles_and_keys_of_messages():
    format = ChatLmDatasetFormat(messages_field="turns", input_field="Q", output_field="A", role_map={"judge": "user"})
    row = {"turns": [{"role": "Q", "content": "hi"}, {"role": "A", "content": "ho"}], "text": "ignored"}
    assert dialogue_of(row, format).messages == [USER, ASSISTANT]
    assert dialogue_of({"turns": [USER | {"role": "judge"}, ASSISTANT]}, format).messages == [USER, ASSISTANT]
    assert reason_of({"messages": [USER, ASSISTANT]}, format) == "unknown_format"
    inside = ChatLmDatasetFormat(columns={"messages": "dialog", "role": "speaker", "content": "utterance"})
    row = {"dialog": [{"speaker": "human", "utterance": "hi"}, {"speaker": "bot", "utterance": "ho", "role": "x"}]}
    assert dialogue_of(row, inside).messages == [USER, ASSISTANT]


def test_columns_go_before_the_usual_keys():
    row = {"q": "hi", "a": "ho", "instruction": "x", "output": "y", "answer": "z", "messages": [SYSTEM]}
    format = ChatLmDatasetFormat(columns={"instruction": "q", "output": "a"})
    assert dialogue_of(row, format).messages == [USER, ASSISTANT]
    swapped = {"output": "hi", "instruction": "ho"}
    format = ChatLmDatasetFormat(columns={"instruction": "output", "output": "instruction"})
    assert dialogue_of(swapped, format).messages == [USER, ASSISTANT]
    both = {"question": "hi", "answer": "ho", "response": "x"}
    assert reason_of(both) == "ambiguous_format"
    assert dialogue_of(both, ChatLmDatasetFormat(columns={"answer": "answer"})).messages == [USER, ASSISTANT]


def test_named_shapes():
    row = {
        "question": "hi",
        "category": "GREETINGS",
        "answer": "ho",
        "messages": [USER, ASSISTANT | {"content": "hey"}],
    }
    assert reason_of(row) == "ambiguous_format"
    jeopardy = dialogue_of(row, ChatLmDatasetFormat(shape="jeopardy"))
    assert jeopardy.messages == [{"role": "user", "content": "hi\nGREETINGS"}, ASSISTANT]
    assert dialogue_of(row, ChatLmDatasetFormat(shape="sharegpt")).messages[1]["content"] == "hey"
    assert reason_of(row, ChatLmDatasetFormat(shape="alpaca")) == "missing_key"
    summary = dialogue_of({"article": "hi", "summary": "ho"}, ChatLmDatasetFormat(shape="summary"))
    assert summary.messages == [USER, ASSISTANT]
    choice = {"question": "2+2?", "choices": ["3", "4"], "solution": "4", "explanation": "It is even."}
    read = dialogue_of(choice, ChatLmDatasetFormat(shape="multiple_choice"))
    assert [m["content"] for m in read.messages] == ["2+2?\n- 3\n- 4", "4\nIt is even."]


def test_plain_text():
    assert example_of({"text": "hi"}, FORMAT) == Text("", "hi")
    for row in (
        {"prompt": "hi", "completion": " ho"},
        {"prompt": "hi", "generation": " ho"},
        {"input": "hi", "output": " ho"},
    ):
        assert example_of(row, ChatLmDatasetFormat(default_system="no dialogue")) == Text("hi", " ho")
    assert reason_of({"text": "hi"}, read=dialogue_of) == "not_a_dialogue"


def test_of_a_chat_prompt_nothing_is_trained():
    row = {"prompt": [USER, ASSISTANT, USER], "completion": [ASSISTANT]}
    assert dialogue_of(row, FORMAT).messages == [USER, ASSISTANT | {"train": False}, USER, ASSISTANT]
    said = {"prompt": [USER, ASSISTANT | {"train": True}, USER], "completion": [ASSISTANT]}
    assert dialogue_of(said, FORMAT).messages[1]["train"] is True


def shout(row):
    return row["t"].upper()


def as_messages(row):
    return [{"role": "human", "content": row["t"]}, ASSISTANT]


def as_batch(row):
    return {"text": row["t"]}


def test_formatting_func():
    row = {"t": "hi", "messages": [USER], "tools": [{"name": "f"}], "system": "x"}
    assert example_of(row, ChatLmDatasetFormat(formatting_func=shout)) == Text("", "HI")
    read = dialogue_of(row, ChatLmDatasetFormat(formatting_func=as_messages))
    assert read.messages == [USER, ASSISTANT] and read.tools == [{"type": "function", "function": {"name": "f"}}]
    assert reason_of({"u": "hi"}, ChatLmDatasetFormat(formatting_func=shout)) == "formatting_error"
    assert reason_of(row, ChatLmDatasetFormat(formatting_func=as_batch)) == "formatting_error"


@pytest.mark.parametrize(
    "row, reason",
    [
        ([], "not_an_object"),
        (None, "not_an_object"),
        ({}, "unknown_format"),
        ({"texts": "hi"}, "unknown_format"),
        ({"instruction": "hi"}, "unknown_format"),
        ({"messages": [USER], "prompt": [USER], "completion": [ASSISTANT]}, "ambiguous_format"),
        ({"instruction": "hi", "output": "a", "response": "b"}, "ambiguous_format"),
        ({"instruction": "a", "output": "b", "question": "c", "answer": "d"}, "ambiguous_format"),
        ({"prompt": "hi", "completion": 3}, "bad_messages"),
        ({"instruction": "hi", "output": ["ho"]}, "bad_messages"),
        ({"instruction": ["hi"], "input": "x", "output": "ho"}, "bad_messages"),
        ({"instruction": "hi", "output": "ho", "history": [["a"]]}, "bad_messages"),
        ({"instruction": "hi", "output": "ho", "system": 3}, "bad_messages"),
        ({"messages": [USER, ASSISTANT], "chat_template_kwargs": [1]}, "bad_messages"),
        ({"text": ["hi"]}, "bad_text"),
        ({"text": "\ud800"}, "invalid_unicode"),
    ],
)
def test_bad_rows(row, reason):
    assert reason_of(row) == reason


def test_errors_say_what_was_found_and_tried():
    with pytest.raises(
        BadRow, match=r"keys \['b', 'q'\] fit none of the formats tokens \(input_ids\), messages \("
    ) as bad:
        example_of({"q": 1, "b": 2}, FORMAT)
    assert "alpaca (instruction|INSTRUCTION + output|response|answer|RESPONSE)" in bad.value.message
    with pytest.raises(
        BadRow, match="fit several formats .* alpaca .*, question_answer .* name one with shape='alpaca'"
    ):
        example_of({"instruction": "a", "output": "b", "question": "c", "answer": "d"}, FORMAT)
    with pytest.raises(BadRow, match="lacks instruction|INSTRUCTION"):
        example_of({"output": "x"}, ChatLmDatasetFormat(shape="alpaca"))


@pytest.mark.parametrize(
    "row, hint",
    [
        ({"mesages": []}, "'mesages': did you mean 'messages'? "),
        ({"promt": "a", "respons": "b"}, "'promt': did you mean 'prompt'? 'respons': did you mean 'response'? "),
        (
            {"question": "a", "reply": "b"},
            "for question_answer, answer|response is missing; is it 'reply'? Then say columns={'answer': 'reply'}. ",
        ),
        ({"chosen": "a"}, "for preference, rejected|rejected_messages|rejected_response is missing. "),
        ({"Messages": []}, "'Messages': did you mean 'messages'? "),
        ({"zzz": 1}, ""),
    ],
)
def test_what_keys_may_mean(row, hint):
    with pytest.raises(BadRow) as bad:
        example_of(row, FORMAT)
    assert bad.value.message.startswith(f"{hint}the keys [")


@pytest.mark.parametrize("roles", [("user", "assistant"), ("Q", "A")])
def test_names_of_roles_are_no_keys_of_a_row(roles):
    asks, answers = roles
    row = {asks: "hi", answers: "ho"}
    says = f"columns={{'prompt': {asks!r}, 'response': {answers!r}}}"
    with pytest.raises(BadRow) as bad:
        example_of(row, ChatLmDatasetFormat(input_field=asks, output_field=answers))
    assert bad.value.message.startswith(f"input_field={asks!r} and output_field={answers!r} are names of roles")
    assert says in bad.value.message
    read = example_of(row, ChatLmDatasetFormat(columns={"prompt": asks, "response": answers}))
    assert [message["content"] for message in read.messages] == ["hi", "ho"]


def test_several_examples():
    answers = [{"answer": "ho", "rank": 1}, {"answer": "x", "rank": 2}, {"answer": "y", "rank": 3}]
    row = {"prompt": "hi", "answers": answers}
    assert len(examples_of(row, FORMAT)) == 2
    assert reason_of(row) == "several_examples"
    assert examples_of({"text": "hi"}, FORMAT) == [Text("", "hi")]
