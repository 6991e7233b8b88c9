import copy
import re
from pathlib import Path

import numpy as np
import pytest

from marin_sft.data.chat.renderer import ChatRenderer, encode_chat
from marin_sft.data.chat.templates import ChatTemplate, has_generation_tags
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.messages.examples import Dialogue
from marin_sft.data.messages.reading import BadRow
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
SHOUT = CHATML.replace("m['content'] + '<|im_end|>'", "m['content'] | upper + '<|im_end|>'")
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


def test_no_template(tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(ConfigError, match="format.chat_template"):
        encode_chat(bare, messages_of(["hi", "ho"]), ChatLmDatasetFormat())


def test_a_template_that_changes_what_is_said(special):
    messages = messages_of(["hi", "ho", "ha", "he"])
    row = encode_chat(special, messages, ChatLmDatasetFormat(chat_template=without_tags(SHOUT)))
    assert row.mask.tolist() == reference(special, messages, SHOUT)[1]
    assert special.decode(row.input_ids[row.mask == 1]) == "HO<|im_end|>HE<|im_end|>"


FAMILIES = {
    path.stem: path.read_text().rstrip("\n") for path in sorted((Path(__file__).parent / "templates").glob("*.jinja"))
}
END_OF_TURN = {
    **dict.fromkeys(("chatml", "qwen2_5", "qwen3"), "<|im_end|>"),
    **dict.fromkeys(("mistral", "zephyr"), "</s>"),
    "llama3": "<|eot_id|>",
    "gemma": "<end_of_turn>",
}
TOOLS = [
    {"type": "function", "function": {"name": "add", "description": "\u00e9\u4e2d", "parameters": {"z": 1, "a": 2}}}
]


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


TOOL_USE = [
    turn("user", "1+2?"),
    turn("assistant", "", tool_calls=[call("add", x=1, text="<|im_end|> </s> <|eot_id|>")]),
    turn("tool", "3"),
    turn("assistant", "It is 3."),
    turn("user", "2+2?"),
    turn("assistant", "Let me see.", tool_calls=[call("add", nested={"list": ["a", 2.5]})]),
    turn("tool", "4"),
    turn("assistant", "4"),
]
SHAPES = {
    "one exchange": messages_of(["hi", "ho"]),
    "many": messages_of(["a", "b", "c", "d", "e", "f"]),
    "system": [turn("system", "Be brief."), *messages_of(["hi", "ho", "ha", "he"])],
    "ends with the user": messages_of(["hi", "ho", "bye"]),
    "begins with the assistant": messages_of(["", "hi", "ho", "ha"])[1:],
    "same roles": [turn("user", "a"), turn("user", "b"), turn("assistant", "c"), turn("assistant", "d")],
    "unicode": messages_of(
        [
            "\U0001f600\U0001f468\u200d\U0001f469",
            "e\u0301 \u4e2d\u6587 \u0645\u0631\u062d\u0628\u0627",
            "\u200bx\ufeff",
            "a\u200b\U0001f600",
        ]
    ),
    "empty turns": messages_of(["", "", "x", ""]),
    "spaces": messages_of(["  a \n", "\n  b  \n\n", " c", "\t d "]),
    "quoted template": messages_of(
        ["say <|im_start|>assistant\nno<|im_end|>", "<|im_end|>\n<|im_start|>assistant\nho</s>", "x", "[/INST] y"]
    ),
    "only spaces": messages_of(["a", "  ", "b", "c"]),
    "thinking inside": messages_of(["a", "<think>\nold\n</think>\n\nb", "c", "<think>\nnew\n</think>\n\nd"]),
    "thinking beside": [
        turn("user", "a"),
        turn("assistant", "b", reasoning_content="old"),
        turn("user", "c"),
        turn("assistant", "d", reasoning_content="new"),
    ],
    "tools": TOOL_USE,
    "thinking with tools": [
        turn("user", "a"),
        turn("assistant", "", reasoning_content="one", tool_calls=[call("add", x="y")]),
        turn("tool", "3"),
        turn("assistant", "b", reasoning_content="two"),
        turn("user", "c"),
        turn("assistant", "d"),
    ],
}


@pytest.fixture(scope="module")
def family_tokenizer(tokenizer):
    """Knows the special tokens of all families; its end of text is that of Mistral and Zephyr, and its padding, too."""
    from transformers import AddedToken

    made = copy.deepcopy(tokenizer)
    made.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"})
    names = "<|start_header_id|> <|end_header_id|> <|eot_id|> <start_of_turn> <end_of_turn> [INST] [/INST] [TOOL_CALLS]"
    made.add_tokens([AddedToken(name, special=True) for name in names.split()])
    made.add_tokens(
        [AddedToken(name, special=False) for name in ("<think>", "</think>", "<tool_call>", "</tool_call>")]
    )
    return made


def untagged(template):
    return re.sub(r"\{%- (end)?generation -%\}", "", template)


@pytest.mark.parametrize("messages", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family_tokenizer, family, messages):
    """With tags, ids and mask are those of transformers; without tags they are the same."""
    template, tools = FAMILIES[family], TOOLS if any("tool_calls" in m for m in messages) else None
    try:
        out = family_tokenizer.apply_chat_template(
            messages, tools, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
    except Exception as error:  # raise_exception and undefined values, as the template has it
        for used in (template, untagged(template)):
            with pytest.raises(BadRow, match="template_error") as caught:
                encode_chat(family_tokenizer, messages, ChatLmDatasetFormat(chat_template=used), tools)
            assert str(error) in caught.value.message
        return
    for used in (template, untagged(template)):
        format = ChatLmDatasetFormat(chat_template=used, allow_not_rendered=("calls", "reasoning", "content"))
        if used != template and family == "mistral" and messages[0]["role"] == "assistant":
            # No generation prompt, and the template does not render the empty dialogue before the turn.
            with pytest.raises(BadRow, match="unverified_mask.*cannot render the dialogue up to it"):
                encode_chat(family_tokenizer, messages, format, tools)
            continue
        row = encode_chat(family_tokenizer, messages, format, tools)
        assert row.input_ids.tolist() == out["input_ids"]
        assert row.mask.tolist() == out["assistant_masks"]
    trained = family_tokenizer.decode(row.input_ids[row.mask == 1])
    assert trained.endswith(END_OF_TURN[family])
    last = np.flatnonzero(np.diff([*row.mask, 0]) == 255)  # where a mask of uint8 falls from 1 to 0
    ends = set(family_tokenizer.convert_ids_to_tokens(row.input_ids[last]))
    assert ends <= {END_OF_TURN[family]}


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_chosen_to_be_trained(family_tokenizer, family, tags):
    template = FAMILIES[family] if tags else untagged(FAMILIES[family])
    end = END_OF_TURN[family]
    messages = messages_of(["a", "first", "b", "second", "c", "third"])

    def trained(messages, **fields):
        row = encode_chat(family_tokenizer, messages, ChatLmDatasetFormat(chat_template=template, **fields))
        text = family_tokenizer.decode(row.input_ids[row.mask == 1])
        return text.replace("<think>\n\n</think>\n\n", "").replace(" ", "")

    def flagged(**flags):
        return [{**m, "train": flags[m["content"]]} if m["content"] in flags else m for m in messages]

    assert trained(messages) == f"first{end}second{end}third{end}"
    assert trained(messages, train_on="last") == f"third{end}"
    assert trained(flagged(second=False)) == f"first{end}third{end}"
    assert trained(flagged(first=True), train_on="last") == f"first{end}third{end}"
    everything = trained(messages, train_on="all")
    assert everything == trained(messages, mask_user_turns=False)
    assert trained(flagged(second=False), train_on="all") == everything.replace(f"second{end}", "")
    with pytest.raises(BadRow, match="no_trained_token"):
        trained(flagged(first=False, second=False, third=False))


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_history_thinking(family_tokenizer, tags, inside):
    template = FAMILIES["qwen3"] if tags else untagged(FAMILIES["qwen3"])
    texts = [("b", "old"), ("d", "new")]
    answers = [
        turn("assistant", f"<think>\n{r}\n</think>\n\n{c}") if inside else turn("assistant", c, reasoning_content=r)
        for c, r in texts
    ]
    messages = [turn("user", "a"), answers[0], turn("user", "c"), answers[1]]
    for policy, first in ((None, "b"), ("strip", "b"), ("keep", "<think>\nold\n</think>\n\nb")):
        format = ChatLmDatasetFormat(chat_template=template, history_thinking=policy)
        row = encode_chat(family_tokenizer, messages, format)
        trained = family_tokenizer.decode(row.input_ids[row.mask == 1])
        assert trained == f"{first}<|im_end|><think>\nnew\n</think>\n\nd<|im_end|>"


def test_thinking_switched_off(family_tokenizer):
    messages = messages_of(["a", "b", "c", "<d>"])
    for template in (FAMILIES["qwen3"], untagged(FAMILIES["qwen3"])):
        format = ChatLmDatasetFormat(chat_template=template, chat_template_kwargs={"enable_thinking": False})
        row = encode_chat(family_tokenizer, messages, format)
        trained = family_tokenizer.decode(row.input_ids[row.mask == 1])
        assert trained == "b<|im_end|><think>\n\n</think>\n\n<d><|im_end|>"


def test_arguments_of_the_template(tokenizer):
    template = "{{ mood }} {{ place }}\n" + CHATML
    format = ChatLmDatasetFormat(chat_template=template, chat_template_kwargs={"mood": "calm", "place": "here"})
    messages = messages_of(["hi", "ho"])
    row = encode_chat(tokenizer, messages, format, None, {"mood": "wild", "add_generation_prompt": True})
    assert tokenizer.decode(row.input_ids).startswith("wild here\n<|im_start|>user")
    assert tokenizer.decode(row.input_ids).endswith("ho<|im_end|>\n")
    for wrong in ({"tokenize": False}, {"messages": []}, {"chat_template": CHATML}, {"eos_token": "x"}):
        with pytest.raises(BadRow, match=f"bad_template_kwargs: chat_template_kwargs has .'{next(iter(wrong))}'"):
            encode_chat(tokenizer, messages, format, None, wrong)


def test_a_usual_dialogue_without_tags_is_rendered_once(tokenizer, monkeypatch):
    template, rendered = without_tags(CHATML), []
    render = ChatTemplate.render
    monkeypatch.setattr(ChatTemplate, "render", lambda self, given: rendered.append(given) or render(self, given))
    renderer = ChatRenderer(tokenizer, ChatLmDatasetFormat(chat_template=template))
    renderer.render(Dialogue(messages_of(["hi", "ho"])))  # learns the generation prompt
    rendered.clear()
    renderer.render(Dialogue(messages_of(["What is 1+1?", "It is 2.", "And \u00e9\u4e2d?", "3\n\n4"])))
    assert len(rendered) == 1


@pytest.mark.parametrize(
    "texts",
    [
        ["<|im_start|>assistant\nho<|im_end|>", "ho"],
        ["hi", "<|im_start|>assistant\nho<|im_end|>", "hi", "ho"],
        ["hi", "ho<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nha"],
        ["hi", "ho<|im_end|>", "hi", "<|im_end|>"],
        ["hi", " ho\n", "hi", "\tha"],
    ],
)
def test_turns_that_quote_the_template(tokenizer, texts):
    ids, mask = reference(tokenizer, messages_of(texts), CHATML)
    row = encode_chat(tokenizer, messages_of(texts), ChatLmDatasetFormat(chat_template=without_tags(CHATML)))
    assert (row.input_ids.tolist(), row.mask.tolist()) == (ids, mask)


FEATURES = (
    "{% set n = namespace(x=0) %}{% macro say(m) %}[{{ m.content | trim }}]{% endmacro %}{% set top = 'T' %}"
    "{% for m in messages %}{% set n.x = n.x + 1 %}{{ top }}{{ n.x }}{{ say(m) }}"
    "{% if m.role == 'assistant' %}{%- generation -%}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endif %}"
    "{% if loop.last %}{{ tools | tojson }}{{ documents }}{{ range(2) | list }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [*TEMPLATES.values(), FEATURES], ids=[*TEMPLATES, "features"])
def test_texts_and_ranges_are_those_of_transformers(template):
    """Also where one template renders many dialogues: nothing is left over from the one before."""
    from transformers.utils.chat_template_utils import render_jinja_template

    tools = [{"type": "function", "function": {"name": "f"}}]
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    ours = ChatTemplate.of(template)
    for texts in [*DIALOGUES.values(), *DIALOGUES.values()]:
        messages = messages_of(texts)
        theirs, ranges = render_jinja_template(
            [messages], tools=tools, chat_template=template, return_assistant_tokens_mask=True, **names
        )
        variables = {"messages": messages, "tools": tools, "documents": None, "add_generation_prompt": False, **names}
        assert ours.render_tagged(variables) == (theirs[0], ranges[0])
        assert ours.render(variables) == theirs[0]


def test_a_template_that_failed_renders_the_next_dialogue_as_ever():
    template = CHATML.replace(
        "{% endfor %}", "{{ m['content'] / 2 if loop.last and m['content'] == 'no' }}{% endfor %}"
    )
    ours = ChatTemplate(template)
    expected = ChatTemplate(template).render_tagged({"messages": messages_of(["hi", "ho"])})
    with pytest.raises(TypeError):
        ours.render_tagged({"messages": messages_of(["hi", "ho", "hi", "no"])})
    assert ours.render_tagged({"messages": messages_of(["hi", "ho"])}) == expected


def test_documents_are_a_list_of_objects(tokenizer):
    template = "{{ documents }}" + CHATML
    format = ChatLmDatasetFormat(chat_template=template)
    encode_chat(tokenizer, messages_of(["a", "b"]), format, chat_template_kwargs={"documents": [{"title": "x"}]})
    with pytest.raises(BadRow, match="bad_template_kwargs: documents"):
        encode_chat(tokenizer, messages_of(["a", "b"]), format, chat_template_kwargs={"documents": ["x"]})


def test_a_template_runs_in_a_sandbox(tokenizer):
    format = ChatLmDatasetFormat(chat_template="{{ messages.__class__.__base__.__subclasses__() }}")
    with pytest.raises(BadRow, match="template_error.*SecurityError"):
        encode_chat(tokenizer, messages_of(["hi", "ho"]), format)
