"""What Ollama makes of the Go templates is worked out by a small reader of the few actions in them."""

import re

import pytest

from marin_sft.data.train_tokenizer import CHATML_TEMPLATE
from marin_sft.export.gguf.modelfile import modelfile
from marin_sft.export.gguf.special_tokens import special_tokens
from marin_sft.export.gguf.turns import turns_of
from tests.published import tiny_tokenizers

DIALOGUE = [{"role": "user", "content": "Two\nlines"}, {"role": "assistant", "content": "Yes."}]
DIALOGUE += [{"role": "user", "content": "Thanks"}]
SYSTEM = {"role": "system", "content": "Be kind."}
CASES = [
    ("plain", CHATML_TEMPLATE),
    ("llama3", "llama3"),
    ("qwen", "qwen2_5"),
    ("qwen", "qwen3"),
    ("llama2", "zephyr"),
    ("llama2", "mistral"),
    ("gemma", "gemma"),
    ("olmo", "chatml"),
]


def made(kind: str, template: str | None):
    tokenizer = getattr(tiny_tokenizers, kind)()
    if template is not None and "{" in template:
        tokenizer.chat_template = template
    elif template is not None:
        tiny_tokenizers.with_template(tokenizer, template)
    return tokenizer


def of(tokenizer, generation=None, context=4096):
    generation = {"eos_token_id": [tokenizer.eos_token_id], **(generation or {})}
    return modelfile("m.gguf", tokenizer, generation, special_tokens(tokenizer, {}, generation), context)


def go(template: str, messages) -> str:
    """`template` with these messages."""
    system = any(message["role"] == "system" for message in messages)
    template = re.sub(r"{{ if not .System }}(.*?){{ end }}", "" if system else r"\1", template, flags=re.DOTALL)
    before, loop, after = re.fullmatch(r"(.*){{ range .Messages }}(.*){{ end }}(.*)", template, re.DOTALL).groups()
    roles = re.findall(r'if eq .Role "(\w+)" }}(.*?){{ (?=else|end)', loop, re.DOTALL)
    assert len(roles) == loop.count("if eq")
    said = [dict(roles).get(message["role"], "").replace("{{ .Content }}", message["content"]) for message in messages]
    return before + "".join(said) + after


@pytest.mark.parametrize(("kind", "template"), CASES)
def test_ollama_renders_what_the_chat_template_renders(kind, template):
    tokenizer = made(kind, template)
    text, _ = of(tokenizer)
    go_template = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)[1]
    begins = special_tokens(tokenizer, {}, {"eos_token_id": [tokenizer.eos_token_id]}).begins
    dialogues = [DIALOGUE, DIALOGUE[:1]]
    if "system" in turns_of(tokenizer).around:
        dialogues += [[SYSTEM, *DIALOGUE], [SYSTEM, *DIALOGUE[:1]]]
    for dialogue in dialogues:
        expected = tokenizer.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=True)
        assert (tokenizer.bos_token if begins else "") + go(go_template, dialogue) == expected


def test_ends_and_sampling_become_parameters():
    tokenizer = made("qwen", "qwen2_5")
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1}
    text, _ = of(tokenizer, {"eos_token_id": ends, **sampling}, context=131072)
    assert text.splitlines()[0] == "FROM ./m.gguf"
    parameters = [line.removeprefix("PARAMETER ") for line in text.splitlines() if line.startswith("PARAMETER")]
    assert parameters[:3] == ['stop "<|im_end|>"', 'stop "<|endoftext|>"', "num_ctx 8192"]
    assert parameters[3:] == ["temperature 0.7", "top_k 20", "top_p 0.8", "repeat_penalty 1.1", "repeat_last_n -1"]
    assert "131072" in text
    greedy, _ = of(tokenizer, {"do_sample": False, "temperature": 0.9}, context=512)
    assert greedy.endswith("PARAMETER num_ctx 512\nPARAMETER temperature 0.0\n")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }} {{ m.content }}\n{% endfor %}",  # it counts
        "{{ strftime_now('%d %b %Y') }}" + CHATML_TEMPLATE,  # it has the date
        CHATML_TEMPLATE.replace("<|im_start|>", "{{ '{{' }}"),  # Go would take it for an action
        "{{ messages[-1].content }}",  # it forgets
    ],
)
def test_a_template_that_is_more_than_text_around_messages_has_no_modelfile(template):
    text, limits = of(made("plain", template))
    assert text is None and "no Modelfile: Ollama has no Jinja" in limits[0]


def test_a_model_without_a_chat_template_gets_plain_prompts():
    text, limits = of(made("plain", None))
    assert 'TEMPLATE """{{ .Prompt }}"""' in text and limits == []


def test_what_the_modelfile_cannot_say_is_told():
    _, limits = of(made("gemma", "gemma"))
    assert any("takes spaces off messages" in limit for limit in limits)
    assert any("takes no system message" in limit for limit in limits)
    assert of(made("plain", CHATML_TEMPLATE))[1] == []
