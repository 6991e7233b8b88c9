"""Greedy tokens of the families, against `generate` of transformers, and text while it comes."""

import numpy as np
import pytest
import torch
import transformers

from marin_sft.evaluation.decoding import decode, rounded, stream
from marin_sft.evaluation.kv_cache import unstacked
from marin_sft.evaluation.sampling import Sampling
from marin_sft.evaluation.text_stream import TextStream, ThoughtStream, tags_of
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_directory import ModelDirectory, write_tensors
from tests.published import tiny_tokenizers
from tests.published.releases import RELEASES, write

# Llama and Qwen 3 are asked in test_generate.py.
FAMILIES = [
    "mistral 0.1",
    "qwen 2.5 instruct",
    "gemma 1",
    "gemma 2 it",
    "gemma 3 it",
    "olmo 2",
    "olmo 3 think",
]


@pytest.fixture(scope="module", params=FAMILIES)
def published(request, tmp_path_factory):
    """A release with weights that are large enough for answers of many tokens."""
    path = write(tmp_path_factory.mktemp("published") / "base", RELEASES[request.param])
    random = np.random.default_rng(0)
    tensors = {
        name: (random.standard_normal(shape) * 0.3 if len(shape) > 1 else 1 + random.standard_normal(shape) * 0.1)
        for name, shape in sorted(ModelDirectory(path).tensors().shapes().items())
    }
    for file in path.glob("*.safetensors*"):
        file.unlink()
    write_tensors(str(path), {name: tensor.astype(np.float32) for name, tensor in tensors.items()})
    return str(path)


def by_transformers(path: str, prompts: list[list[int]], ends: list[int], new_tokens: int) -> list[list[int]]:
    config = transformers.AutoConfig.for_model(**ModelDirectory(path).config)
    options = {"config": config, "dtype": torch.float32, "attn_implementation": "eager"}
    model = transformers.AutoModelForCausalLM.from_pretrained(path, **options)
    asked = {"do_sample": False, "max_new_tokens": new_tokens, "eos_token_id": ends, "pad_token_id": 0}
    answers = []
    for prompt in prompts:
        mask = torch.ones(1, len(prompt), dtype=torch.long)
        model.generation_config = transformers.GenerationConfig()
        out = model.generate(torch.tensor([prompt]), attention_mask=mask, **asked)
        answers.append(out[0, len(prompt) :].tolist())
    return answers


def test_every_family_answers_as_in_transformers(published):
    """Prompts shorter and much longer than the windows, which are 8 tokens, in one batch."""
    model = levanter_model.load_model(published)
    random = np.random.default_rng(0)
    prompts = [random.integers(0, model.Vocab.size, size).tolist() for size in (3, 17, 60, 1)]
    ends = random.choice(model.Vocab.size, model.Vocab.size // 12, replace=False).tolist()
    expected = by_transformers(published, prompts, ends, 20)
    assert len({token for answer in expected for token in answer}) > 5
    assert decode(model, prompts, ends, 20) == expected


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return levanter_model.load_model(str(write(tmp_path_factory.mktemp("one") / "m", RELEASES["qwen 2.5 instruct"])))


def test_what_is_drawn_is_the_same_in_any_batch(model):
    prompts = [[5, 6, 7], [8] * 40, [9, 10]]
    drawing = Sampling(temperature=2.0, top_p=0.9, seed=3)
    together = decode(model, prompts, [], 8, sampling=drawing)
    assert [
        decode(model, [prompt], [], 8, sampling=drawing, first=i)[0] for i, prompt in enumerate(prompts)
    ] == together
    assert list(stream(unstacked(model), prompts[1], [], 8, drawing, number=1)) == together[1]
    assert decode(model, prompts[::-1], [], 8, sampling=drawing, numbers=[2, 1, 0], rows=4) == together[::-1]


def test_top_k_draws_from_the_likeliest_tokens(model):
    logits = np.asarray(levanter_model.logits(model, [[5, 6, 7]]))[0, -1]
    likeliest = set(np.argsort(-logits)[:3].tolist())
    drawn = decode(model, [[5, 6, 7]] * 64, [], 1, sampling=Sampling(temperature=50.0, top_k=3))
    assert {answer[0] for answer in drawn} == likeliest
    first = decode(model, [[5, 6, 7]] * 64, [], 1, sampling=Sampling(temperature=50.0, top_k=1))
    assert {answer[0] for answer in first} == {int(np.argmax(logits))}


def test_batches_of_about_one_size_share_their_programs(model):
    from marin_sft.evaluation import decoding

    decode(model, [[5] * 40] * 3, [1], 10)
    programs = [decoding._begin._cached._cache_size(), decoding._add._cached._cache_size()]
    decode(model, [[6] * 3] * 4, [2], 16)
    decode(model, [[7] * 64, [8]], [3], 12, rows=4)
    assert [decoding._begin._cached._cache_size(), decoding._add._cached._cache_size()] == programs
    assert [rounded(size) for size in (1, 2, 3, 5, 64, 65, 97, 129)] == [1, 2, 4, 8, 64, 96, 128, 192]


TEXT = "Größe 😀 日本語, and plain   spaces\n\ttabs. ''don't'' é"


@pytest.mark.parametrize("kind", ["llama2", "llama3", "qwen", "gemma"])
def test_text_comes_in_whole_characters(kind):
    tokenizer = getattr(tiny_tokenizers, kind)()
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    texts = TextStream(tokenizer)
    pieces = [texts.add(id) for id in ids]
    assert "".join([*pieces, texts.rest()]) == tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert not any("\ufffd" in piece for piece in pieces)
    assert sum(map(bool, pieces)) > 5


def test_text_that_ends_within_a_character_is_not_lost():
    tokenizer = tiny_tokenizers.qwen()
    ids = tokenizer("😀", add_special_tokens=False)["input_ids"][:1]
    texts = TextStream(tokenizer)
    assert (texts.add(ids[0]), texts.rest()) == ("", "\ufffd")


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(
    ("text", "opened", "thought", "said"),
    [
        (
            "<think>\nso < it </thin is\n</think>\n\nIt is <think> 4.",
            False,
            "\nso < it </thin is\n",
            "It is <think> 4.",
        ),
        ("hm</think>yes", True, "hm", "yes"),
        ("plain <b>", False, "", "plain <b>"),
        ("<thin ice", False, "", "<thin ice"),
        ("<think>never ends</th", False, "never ends</th", ""),
    ],
)
def test_thoughts_are_told_from_what_is_said(size, text, opened, thought, said):
    thoughts = ThoughtStream(("<think>", "</think>"), opened)
    pieces = [each for i in range(0, len(text), size) for each in thoughts.add(text[i : i + size])]
    pieces += thoughts.rest()
    assert "".join(piece for inside, piece in pieces if inside) == thought
    assert "".join(piece for inside, piece in pieces if not inside) == said


def test_tags_of_thoughts_are_those_of_the_template():
    assert tags_of("{{ '[THINK]' + text + '[/THINK]' }}") == ("[THINK]", "[/THINK]")
    assert tags_of("{{ text }}") == ("<think>", "</think>")
