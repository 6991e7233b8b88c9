import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from marin_sft.errors import ConfigError, DataError, TrainingError
from marin_sft.evaluation.decoding import decode
from marin_sft.evaluation.generate import GenerateConfig, generate, read_prompts
from marin_sft.evaluation.samples import read_samples
from marin_sft.evaluation.sampling import Sampling
from marin_sft.execution.graph import build_graph
from marin_sft.steps import download_urls, evaluate
from marin_sft.training.fakes import CHAT_TEMPLATE, word_tokenizer
from marin_sft.training.models import LlamaConfig, Qwen3Config, levanter_model
from marin_sft.training.models.model_directory import write_json
from marin_sft.training.models.random_model import random_model
from marin_sft.training.models.random_model_config import RandomModelConfig

SIZES = dict(max_seq_len=64, hidden_dim=32, intermediate_dim=64, num_layers=2, num_heads=4, num_kv_heads=2)


@pytest.fixture(scope="module", params=[Qwen3Config, LlamaConfig])
def model_path(request, tmp_path_factory):
    tokenizer, model = (str(tmp_path_factory.mktemp(name)) for name in ("tokenizer", "model"))
    word_tokenizer([f"w{i}" for i in range(40)]).save_pretrained(tokenizer)
    # Tied weights would answer with the last token for ever.
    shape = request.param(**SIZES, tie_word_embeddings=False)
    random_model(RandomModelConfig(model=shape, tokenizer=tokenizer, seed=1, output_path=model))
    return model


def by_transformers(model_path: str, prompt: list[int], ends: list[int], max_new_tokens: int) -> list[int]:
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path)
    out = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
    )
    return out[0, len(prompt) :].tolist()


def test_greedy_tokens_are_those_of_transformers(model_path):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(4, 47, size).tolist() for size in (3, 17, 40, 1, 8, 33)]
    ends = [1, 3, 20, 21, 22, 23]  # enough of them that some answers end early
    expected = [by_transformers(model_path, prompt, ends, 20) for prompt in prompts]
    assert len({len(answer) for answer in expected}) > 1
    assert decode(levanter_model.load_model(model_path), prompts, ends, 20, pad_to=40) == expected


def test_what_is_drawn_depends_on_the_seed_and_the_prompt_alone(model_path):
    model = levanter_model.load_model(model_path)
    prompts = [[5, 6, 7], [8], [5, 6, 7], [9, 10]]
    answers = decode(model, prompts, [], 8, 3, Sampling(temperature=1.0, seed=1))
    assert answers[0] != answers[2]  # the same prompt, drawn twice
    assert answers == decode(model, prompts, [], 8, 3, Sampling(temperature=1.0, seed=1))
    assert answers != decode(model, prompts, [], 8, 3, Sampling(temperature=1.0, seed=2))
    assert answers[2:] == decode(model, prompts[2:], [], 8, 3, Sampling(temperature=1.0, seed=1), first=2)
    greedy = decode(model, prompts, [], 8, 3)
    assert greedy == decode(model, prompts, [], 8, 3, Sampling(temperature=1.0, top_p=1e-6, seed=1))


def test_draws_follow_the_models_distribution(model_path):
    """First tokens of 4,000 answers to one prompt, against the probabilities that transformers gives."""
    model, served = levanter_model.load_model(model_path), transformers.AutoModelForCausalLM.from_pretrained(model_path)
    drawn = decode(model, [[5, 6, 7]] * 4000, [], 1, 3, Sampling(temperature=0.5, top_p=0.6))
    seen = np.bincount([answer[0] for answer in drawn], minlength=47) / 4000
    scores = served(torch.tensor([[5, 6, 7]])).logits[0, -1:].detach() / 0.5
    kept = transformers.TopPLogitsWarper(0.6)(None, scores)
    expected = torch.softmax(kept, dim=-1)[0].numpy()
    assert 3 < (expected > 0).sum() < 40
    assert not seen[expected == 0].any()
    np.testing.assert_allclose(seen, expected, atol=0.03)


def test_an_answer_ends_with_the_models_longest_sequence(model_path):
    model = levanter_model.load_model(model_path)
    long, short = decode(model, [[5] * 60, [5, 6]], [], 10, pad_to=60)
    assert (len(long), len(short)) == (4, 10)


def write_rows(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def row(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def test_the_step_answers_every_prompt_and_counts_matches(model_path, tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_path)
    questions = ["w1 w2", "w3", "w4 w5 w6", "w7 w8", "w9"]
    asked = [
        tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True) for q in questions
    ]
    right = tokenizer.decode(
        [token for token in by_transformers(model_path, asked[3], [1, 3], 6) if token not in (1, 3)]
    )
    rows = [row(q, right if i == 3 else "w0 w0 w0") for i, q in enumerate(questions)]
    prompts = write_rows(tmp_path / "prompts.jsonl", rows)
    output = tmp_path / "out"

    generate(
        GenerateConfig(
            model=model_path, prompts={"questions": prompts}, max_new_tokens=6, batch_size=2, output_path=str(output)
        )
    )

    lines = [json.loads(line) for line in (output / "generations.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [f"<|start|>user {q}<|end|><|start|>assistant " for q in questions]
    assert lines[3]["generation"] == right and lines[3]["exact_match"]
    samples = read_samples(str(output))
    assert [sample["messages"] for sample in samples] == [[{"role": "user", "content": q}] for q in questions]
    assert [(sample["answer"], sample["finish"]) for sample in samples] == [
        (line["generation"], line["finish"]) for line in lines
    ]
    assert samples[3] | {"messages": []} == {
        "set": "questions",
        "index": 3,
        "step": None,
        "messages": [],
        "reference": right,
        "answer": right,
        "finish": lines[3]["finish"],
    }
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["prompts"] == 5
    assert metrics["exact_match"] == sum(line["exact_match"] for line in lines) / 5 >= 1 / 5


def test_prompts_are_rendered_as_training_renders_them(tmp_path):
    """With the arguments of the config and of the row, the row's tools, and the date that is given."""
    tokenizer = word_tokenizer([f"w{i}" for i in range(40)])
    tokenizer.chat_template = (
        "{{ strftime_now('%Y-%m-%d') }} {{ 'w1' if enable_thinking else 'w2' }} {{ mood }} "
        "{% for tool in tools or [] %}{{ tool.function.name }} {% endfor %}" + CHAT_TEMPLATE
    )
    tools = [{"name": "w5"}]
    own = {"mood": "w6", "enable_thinking": True}
    rows = [row("w3", "w4"), {**row("w3", "w4"), "tools": json.dumps(tools), "chat_template_kwargs": own}]
    prompts = {"q": write_rows(tmp_path / "prompts.jsonl", rows)}
    kwargs = {"enable_thinking": False}
    config = GenerateConfig(model="m", prompts=prompts, chat_template_kwargs=kwargs, template_date="2025-01-02")
    first, second = read_prompts(config, tokenizer, 64)
    asked = [{"role": "user", "content": "w3"}]
    said = tokenizer.apply_chat_template(asked, chat_template=CHAT_TEMPLATE, add_generation_prompt=True, tokenize=False)
    assert first.text == f"2025-01-02 w2  {said}" and second.text == f"2025-01-02 w1 w6 w5 {said}"
    assert second.tokens == tokenizer(second.text, add_special_tokens=False)["input_ids"]
    assert read_prompts(GenerateConfig(model="m", prompts=prompts), tokenizer, 64)[0].text == f"2024-07-26 w2  {said}"
    rows = [{**row("w3", "w4"), "chat_template_kwargs": {"chat_template": "x"}}]
    prompts = {"q": write_rows(tmp_path / "own.jsonl", rows)}
    with pytest.raises(DataError, match=r"own.jsonl:1: chat_template_kwargs has \['chat_template'\]"):
        read_prompts(GenerateConfig(model="m", prompts=prompts), tokenizer, 64)


def test_arguments_of_the_template_count_and_their_absence_does_not():
    def fingerprint(step):
        return build_graph([step]).node(step).fingerprint

    files = download_urls("m", ["https://example.com/m"])
    one, same, other = (
        evaluate("x", files, {"q": files / "q"}, max_new_tokens=4, **more)
        for more in ({}, {"chat_template_kwargs": {}}, {"chat_template_kwargs": {"enable_thinking": False}})
    )
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)
    with pytest.raises(ConfigError, match=r"GenerateConfig.chat_template_kwargs has \['tokenize'\]"):
        GenerateConfig(model="m", prompts={"q": "x"}, chat_template_kwargs={"tokenize": True})
    with pytest.raises(ConfigError, match="GenerateConfig.template_date='today'; expected a day"):
        GenerateConfig(model="m", prompts={"q": "x"}, template_date="today")


def test_rows_that_are_no_prompts(model_path, tmp_path):
    def ask(rows: list, **changes) -> None:
        prompts = write_rows(tmp_path / "prompts.jsonl", rows)
        generate(GenerateConfig(model=model_path, prompts={"questions": prompts}, output_path=str(tmp_path), **changes))

    with pytest.raises(DataError, match=r"prompts.jsonl:1: expected a row whose 'messages' end"):
        ask([{"messages": [{"role": "user", "content": "w1"}]}])
    with pytest.raises(DataError, match="tokens, expected fewer than the model's 64"):
        ask([row("w1 " * 70, "w2")])


def test_a_model_without_an_end_token_is_refused(model_path, tmp_path):
    import shutil

    model = shutil.copytree(model_path, tmp_path / "model")
    write_json(str(model), "generation_config.json", {})
    prompts = write_rows(tmp_path / "prompts.jsonl", [row("w1", "w2")])
    with pytest.raises(TrainingError, match="no eos_token_id"):
        generate(GenerateConfig(model=str(model), prompts={"questions": prompts}, output_path=str(tmp_path / "out")))
