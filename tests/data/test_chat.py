import copy

import numpy as np
import pytest

from marin_sft.data.chat import encode_chat, has_generation_tags
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages import BadRow
from marin_sft.errors import ConfigError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{% generation %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
# Like the reasoning models: the thinking of all but the last turn is dropped, that of the last is rewrapped.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% set answer = m['content'].split('</think>')[-1].strip() %}{% generation %}"
    "{% if loop.last and '</think>' in m['content'] %}"
    "{{ '<think>\n' + m['content'].split('</think>')[0].replace('<think>', '').strip() + '\n</think>\n\n' }}{% endif %}"
    "{{ answer + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "llama2": LLAMA2, "thinking": THINKING}

DIALOGUES = {
    "one turn": ["hi", "ho"],
    "two turns": ["What is 1+1?", "It is 2.", "And \u00e9\u4e2d?", "\U0001f600 is 3"],
    "answers that occur elsewhere": ["a", "a", "assistant", "assistant", "user", "user"],
    "many lines": ["x\n\ny", "def f():\n    return 1\n\n\nprint(f())"],
    "empty answer": ["say nothing", ""],
}


def messages_of(texts):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


def without_tags(template):
    return template.replace("{% generation %}", "").replace("{% endgeneration %}", "")


@pytest.fixture(scope="module")
def special(tokenizer):
    """With a bos, and with header tokens that no attribute of the tokenizer names."""
    from transformers import AddedToken

    special = copy.deepcopy(tokenizer)
    special.add_special_tokens({"bos_token": "<s>"})
    names = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    special.add_tokens([AddedToken(name, special=True) for name in names])
    return special


def reference(tokenizer, messages, template):
    out = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return out["input_ids"], out["assistant_masks"]


@pytest.mark.parametrize("texts", DIALOGUES.values(), ids=DIALOGUES)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("tags", [True, False])
def test_ids_and_mask_are_those_of_transformers(special, template, texts, tags):
    messages = messages_of(texts)
    ids, mask = reference(special, messages, template)
    used = template if tags else without_tags(template)
    row = encode_chat(special, messages, ChatLmDatasetFormat(chat_template=used))
    assert row.input_ids.dtype == np.int32 and row.mask.dtype == np.uint8
    assert row.input_ids.tolist() == ids
    assert row.mask.tolist() == mask
    assert 0 < row.mask.sum() < len(ids)


@pytest.mark.parametrize("tags", [True, False])
def test_reasoning_is_trained_only_where_it_is_rendered(special, tags):
    messages = messages_of(["q1", "<think>\nold\n</think>\n\nfirst", "q2", "<think>\nnew\n</think>\n\nsecond"])
    template = THINKING if tags else without_tags(THINKING)
    row = encode_chat(special, messages, ChatLmDatasetFormat(chat_template=template))
    assert row.mask.tolist() == reference(special, messages, THINKING)[1]
    trained = special.decode(row.input_ids[row.mask == 1])
    assert trained == "first<|im_end|><think>\nnew\n</think>\n\nsecond<|im_end|>"


def test_tokenizers_own_template(tokenizer):
    messages = messages_of(["hi", "ho"])
    row = encode_chat(tokenizer, messages, ChatLmDatasetFormat())
    assert (row.input_ids.tolist(), row.mask.tolist()) == reference(tokenizer, messages, None)


@pytest.mark.parametrize(
    "tag", ["{% generation %}", "{%- generation -%}", "{%generation%}", "{%-  generation %}", "{%+ generation -%}"]
)
def test_spellings_of_the_tag(tokenizer, tag):
    template = CHATML.replace("{% generation %}", tag)
    assert has_generation_tags(template)
    row = encode_chat(tokenizer, messages_of(["hi", "ho"]), ChatLmDatasetFormat(chat_template=template))
    assert tokenizer.decode(row.input_ids[row.mask == 1]) == "ho<|im_end|>"


def test_what_is_no_tag():
    assert not has_generation_tags(without_tags(CHATML))
    assert not has_generation_tags("{# {% generation %} #}{% if add_generation_prompt %}{% endif %}")


def test_train_on_everything(tokenizer):
    format = ChatLmDatasetFormat(mask_user_turns=False)
    row = encode_chat(tokenizer, [{"role": "user", "content": "hi"}], format)
    assert row.mask.all() and len(row.mask) == len(row.input_ids) > 3


def test_tools_and_kwargs_reach_the_template(tokenizer):
    template = "{{ tools[0]['name'] }} {{ date }}\n" + CHATML
    format = ChatLmDatasetFormat(chat_template=template)
    row = encode_chat(tokenizer, messages_of(["hi", "ho"]), format, [{"name": "f"}], {"date": "May"})
    assert tokenizer.decode(row.input_ids).startswith("f May\n<|im_start|>user")


NO_END = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '\n' }}{% endfor %}"
NO_PROMPT = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
SHOUT = without_tags(CHATML).replace("m['content'] + '<|im_end|>'", "m['content'] | upper + '<|im_end|>'")
PLAIN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
UNTRAINED = CHATML.replace("== 'assistant'", "== 'tool'")
ALL = "{% generation %}{{ messages[-1]['content'] }}{% endgeneration %}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


@pytest.mark.parametrize(
    "template, reason",
    [
        (NO_END, "unverified_mask"),
        (NO_END + PROMPT, "unverified_mask"),
        (NO_PROMPT, "unverified_mask"),
        (SHOUT, "unverified_mask"),
        (PLAIN, "unverified_mask"),
        (UNTRAINED, "empty_mask"),
        ("." + ALL.replace("[-1]['content']", "[-1].nothing"), "empty_mask"),
        ("{{ '' }}{{ '.' }}" + CHATML + "{{ raise_exception('no') }}", "template_error"),
        ("{{ bos_token + bos_token }}" + CHATML, "doubled_bos"),
        ("", "empty_text"),
    ],
)
def test_bad_templates_are_errors(special, template, reason):
    messages = messages_of(["hi", "ho", "ha", "he"]) + [{"role": "user", "content": "bye"}]
    format = ChatLmDatasetFormat(chat_template=template)
    with pytest.raises(BadRow) as caught:
        encode_chat(special, messages, format)
    assert caught.value.reason == reason


def test_full_mask_is_an_error(special):
    everything = "{{ m.nothing }}{% generation %}{{ m['content'] }}{% endgeneration %}"
    template = "{{ '' }}{% for m in messages %}" + everything + "{% endfor %}"
    with pytest.raises(BadRow) as caught:
        encode_chat(special, messages_of(["hi", "ho"]), ChatLmDatasetFormat(chat_template=template))
    assert caught.value.reason == "full_mask"


def test_no_assistant_turn(tokenizer):
    with pytest.raises(BadRow) as caught:
        encode_chat(tokenizer, messages_of(["hi"]), ChatLmDatasetFormat())
    assert caught.value.reason == "no_assistant_turn"


def test_tool_calls_need_tags(tokenizer):
    messages = messages_of(["hi", ""])
    messages[1]["tool_calls"] = [{"function": {"name": "f"}}]
    with pytest.raises(BadRow, match="tool_calls"):
        encode_chat(tokenizer, messages, ChatLmDatasetFormat(chat_template=without_tags(CHATML)))


def test_no_template(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(ConfigError, match="format.chat_template"):
        encode_chat(bare, messages_of(["hi", "ho"]), ChatLmDatasetFormat())
