"""A few releases all the way: tokenized, trained two steps with exports on the way, exported, served."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from marin_sft import Executor, ExecutorFlags
from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.steps import add_tokens, dpo, export, mixture, sft, tokenize
from marin_sft.training.lora_config import LoraConfig
from marin_sft.training.models import levanter_model
from marin_sft.training.models.model_directory import ModelDirectory
from tests.published.releases import RELEASES, write

ROWS = [("What is 2 + 2?", "It is 4.", "No idea."), ("Count.", "1, 2, 3", "3, 2, 1")] * 4
SETTINGS = {"learning_rate": 1e-2, "num_train_steps": 2, "train_batch_size": 2, "gradient_checkpointing": False}
SETTINGS |= {"steps_per_hf_export": 1, "precision": "fp32"}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 208}


TURNS = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|done|>{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def run(folder: Path, name: str, kind=sft, **settings) -> tuple[Path, Path, Path]:
    """The base model, the output of the training step, and that of the export."""
    base = write(folder / "base", RELEASES[name])
    pairs = kind is dpo
    rows = [{"chosen": chat(q, a), "rejected": chat(q, b)} if pairs else {"messages": chat(q, a)} for q, a, b in ROWS]
    documents = folder / "rows.jsonl"
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokens = {"chat": tokenize("chat", documents, tokenizer=base)}
    blend = mixture("chat", tokens, weights={"chat": 1}, seq_len=512 if "rope_scaling" in settings else 128)
    trained = kind("chat", mixture=blend, base_model=base, **SETTINGS, **settings)
    exported = export("chat", trained)
    flags = ExecutorFlags(prefix=str(folder / "store"), backend="inline")
    outputs = Executor(flags).run([exported])
    return base, Path(str(outputs.output_path(trained))), Path(str(outputs.output_path(exported)))


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [
        ("llama 1", sft, {}),
        ("gemma 3 it", sft, {}),
        ("qwen 2.5 instruct", dpo, {}),
        ("qwen 3", sft, {"rope_scaling": YARN}),
        ("qwen 2.5 instruct", dpo, {"rope_scaling": YARN}),
        ("llama 3.1 instruct", sft, {"lora": LoraConfig(r=4, alpha=8)}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_training_ends_in_exports_that_serve(name, kind, settings, tmp_path):
    base, output, exported = run(tmp_path, name, kind, **settings)
    for path in (exported, output / "hf" / "step-1", output / "hf" / "step-2"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype="auto", trust_remote_code=False)
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Count."}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        model.generate(**asked, max_new_tokens=2, do_sample=False)
    last, final = (dict(ModelDirectory(path).tensors()) for path in (output / "hf" / "step-2", exported))
    assert all(np.array_equal(last[each], final[each]) for each in final)
    before = dict(ModelDirectory(base).tensors())
    assert any(not np.array_equal(before[each], final[each]) for each in final)
    ids = [[1, 2, 3, 4, 5]]
    served = model.float()(torch.tensor(ids)).logits.detach().numpy()
    np.testing.assert_allclose(served, levanter_model.logits(levanter_model.load_model(str(exported)), ids), atol=1e-3)
    fields = ModelDirectory(exported).config
    if "rope_scaling" in settings:
        assert (fields["rope_scaling"], fields["max_position_embeddings"]) == (YARN, 832)
        assert fields["rope_parameters"] == {**YARN, "rope_theta": 1e6}
    if "lora" in settings:
        adapter = json.loads((output / "adapter" / "adapter_config.json").read_text())
        assert (adapter["base_model_name_or_path"], adapter["r"]) == (str(base), 4)
        assert (output / "adapter" / "adapter_model.safetensors").exists()


def test_an_adapter_learns_new_tokens_and_one_of_them_ends_answers(tmp_path):
    base = write(tmp_path / "base", RELEASES["qwen 3"])
    more = add_tokens("more", base, tokens=["<tool>"], special_tokens=["<|turn|>", "<|done|>"])
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": chat("2 + 2?", "<tool> 4")}) + "\n")
    format = ChatLmDatasetFormat(chat_template=TURNS)
    tokens = {"chat": tokenize("chat", tmp_path / "rows.jsonl", tokenizer=more, format=format)}
    blend = mixture("chat", tokens, weights={"chat": 1}, seq_len=64)
    settings = {"learning_rate": 2e-2, "num_train_steps": 60, "train_batch_size": 1, "gradient_checkpointing": False}
    lora = LoraConfig(r=8, alpha=16)
    trained = sft("chat", mixture=blend, base_model=more, lora=lora, precision="fp32", **settings)
    exported = export("chat", trained, dtype="float32")
    outputs = Executor(ExecutorFlags(prefix=str(tmp_path / "store"), backend="inline")).run([exported])
    path = Path(str(outputs.output_path(exported)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    done = tokenizer.convert_tokens_to_ids("<|done|>")
    generation = json.loads((path / "generation_config.json").read_text())
    assert done in generation["eos_token_id"]
    model = transformers.AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False)
    assert model.config.vocab_size == model.get_input_embeddings().weight.shape[0] > done
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "2 + 2?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**asked, max_new_tokens=30, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert answer[-1] == done and len(answer) < 30
    assert tokenizer.decode(answer, skip_special_tokens=True) == "<tool> 4"
