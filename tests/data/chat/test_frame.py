"""Templates without tags against the same ones with tags, as transformers masks them: the shapes of published ones."""

import copy

import pytest

from marin_sft.data.chat.renderer import encode_chat
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.examples import BadRow
from tests.data.chat.test_renderer import FAMILIES, messages_of, reference, turn, untagged

SPECIAL = (
    "<|user|> <|assistant|> <|end|> <|start|> <|message|> <|channel|> <|return|> <|call|> <|START_OF_TURN_TOKEN|> "
    "<|END_OF_TURN_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|> <|START_RESPONSE|> <|END_RESPONSE|>"
).split()


def shape(user, header, answer, prompt, end=""):
    """What each turn is in a template; `answer` with its tags."""
    return (
        "{%- for m in messages -%}{%- if m['role'] == 'user' -%}" + user + "{%- else -%}" + header + answer
        + "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}" + prompt + end + "{%- endif -%}"
    )  # fmt: skip


def generated(text):
    return "{%- generation -%}" + text + "{%- endgeneration -%}"


PHI3 = shape(  # the end of all texts, after the token that ends a turn
    "{{ '<|user|>\n' + m['content'] + '<|end|>\n' }}",
    "{{ '<|assistant|>\n' }}",
    generated("{{ m['content'] + '<|end|>' }}{%- if loop.last -%}{{ '\n' + eos_token }}{%- endif -%}")
    + "{%- if not loop.last -%}{{ '\n' }}{%- endif -%}",
    "{{ '<|assistant|>\n' }}",
    "{%- elif messages[-1]['role'] == 'user' -%}{{ eos_token }}",
)
GPT_OSS = shape(  # the model writes its channel itself; the last turn ends otherwise
    "{{ '<|start|>user<|message|>' + m['content'] + '<|end|>' }}",
    "{{ '<|start|>assistant' }}",
    generated("{{ '<|channel|>final<|message|>' + m['content'] + ('<|return|>' if loop.last else '<|end|>') }}"),
    "{{ '<|start|>assistant' }}",
)
GLM = shape(  # the role of the next turn is what ends one
    "{%- if loop.first -%}{{ '<|user|>' }}{%- endif -%}{{ '\n' + m['content'] }}",
    "{{ '<|assistant|>\n' }}",
    generated("{{ m['content'] }}{%- if not loop.last -%}{{ '<|user|>' }}{%- endif -%}"),
    "{{ '<|assistant|>\n' }}",
)
COHERE = shape(  # two tokens end a turn
    "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m['content'] + '<|END_OF_TURN_TOKEN|>' }}",
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>' }}",
    generated("{{ m['content'] + '<|END_RESPONSE|><|END_OF_TURN_TOKEN|>' }}"),
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>' }}",
)
NO_LINE = shape(  # a turn's end and the next one's beginning touch
    "{{ '<|user|>' + m['content'] + '<|end|>' }}",
    "{{ '<|assistant|>' }}",
    generated("{{ m['content'] + '<|end|>' }}"),
    "{{ '<|assistant|>' }}",
)
SHAPES = {"phi3": PHI3, "gpt_oss": GPT_OSS, "glm": GLM, "cohere": COHERE, "no line": NO_LINE}
DIALOGUES = {
    "two turns": messages_of(["Hi", "Hello", "2+2?", "4"]),
    "ends with the user": messages_of(["Hi", "Hello", "2+2?"]),
    "headers in answers": messages_of(["a", "<|assistant|>\nb<|end|>\n<|assistant|>\n", "c", "<|start|>assistant d"]),
    "ends in answers": messages_of(["<|end|>", "b<|end|>", "c<|return|>", "<|END_OF_TURN_TOKEN|>d<|end|>"]),
}


@pytest.fixture(scope="module")
def known(tokenizer):
    from transformers import AddedToken

    made = copy.deepcopy(tokenizer)
    made.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    made.add_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return made


@pytest.mark.parametrize("messages", DIALOGUES.values(), ids=DIALOGUES)
@pytest.mark.parametrize("template", SHAPES.values(), ids=SHAPES)
def test_ids_and_masks_are_those_of_the_same_template_with_tags(known, template, messages):
    ids, mask = reference(known, messages, template)
    row = encode_chat(known, messages, ChatLmDatasetFormat(chat_template=untagged(template)))
    assert row.input_ids.tolist() == ids
    assert row.mask.tolist() == mask and any(mask)


def test_every_token_that_ends_a_turn_is_trained(known):
    messages, ends = DIALOGUES["two turns"], {}
    for name, template in SHAPES.items():
        row = encode_chat(known, messages, ChatLmDatasetFormat(chat_template=untagged(template)))
        ends[name] = known.decode(row.input_ids[row.mask == 1])
    assert ends == {
        "phi3": "Hello<|end|>4<|end|>\n</s>",
        "gpt_oss": "<|channel|>final<|message|>Hello<|end|><|channel|>final<|message|>4<|return|>",
        "glm": "Hello<|user|>4",
        "cohere": "Hello<|END_RESPONSE|><|END_OF_TURN_TOKEN|>4<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
        "no line": "Hello<|end|>4<|end|>",
    }


def test_rows_that_would_teach_no_turn_to_end_are_refused(known):
    """The last turn of GLM has no end. With others it is counted, alone it is refused."""
    format = ChatLmDatasetFormat(chat_template=untagged(GLM))
    row = encode_chat(known, DIALOGUES["two turns"], format)
    assert row.mask.any()
    with pytest.raises(BadRow, match="unverified_mask: assistant turn at message 1: it is the last turn"):
        encode_chat(known, messages_of(["Hi", "Hello"]), format)
    with pytest.raises(BadRow, match="unverified_mask"):
        encode_chat(known, DIALOGUES["two turns"], ChatLmDatasetFormat(chat_template=untagged(GLM), train_on="last"))


HEADER = "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "answer",
    [
        f"{HEADER}no<|im_end|>\n{HEADER}",
        f"<|im_end|>\n{HEADER}</think></think>",
        f"so {HEADER}<think>\nx\n</think>\n\nb",
        f"<think>\n{HEADER}\n</think>\n\n{HEADER}b",
        f"<think>\nx<|im_end|>\n</think>\n\n</think>{HEADER}",
        f"<think>\n{HEADER}\n</think>\n\n",
        "<think>\nonly\n</think>",
    ],
)
@pytest.mark.parametrize("family", ["chatml", "qwen3"])
def test_an_answer_that_holds_the_header_is_trained_whole(known, family, answer):
    template = FAMILIES[family]
    messages = [turn("user", f"a {HEADER}"), turn("assistant", answer), turn("user", "c"), turn("assistant", answer)]
    format = ChatLmDatasetFormat(chat_template=untagged(template), allow_not_rendered=("content",))
    row = encode_chat(known, messages, format)
    assert (row.input_ids.tolist(), row.mask.tolist()) == reference(known, messages, template)
