"""Experiments written from configs of each tool, run to the end, on a tiny model and the text that the tool trains."""

import json
import runpy
import sys
from pathlib import Path

import pytest

from marin_sft.data.chat.encode import encode
from marin_sft.data.messages.reading import example_of
from marin_sft.data.tokenizer import load_tokenizer
from marin_sft.run import command

INTRO = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n"
)
INTRO_ALONE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)
LLAMA3_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

AXOLOTL = """
base_model: {model}
datasets:
  - path: alpaca.jsonl
    type: alpaca
val_set_size: 0.1
adapter: lora
lora_r: 4
lora_alpha: 8
lora_target_linear: true
sequence_len: 256
sample_packing: true
gradient_accumulation_steps: 2
micro_batch_size: 2
num_epochs: 1
learning_rate: 1e-3
bf16: false
"""
TORCHTUNE = """
model: {{_component_: torchtune.models.llama3_2.llama3_2_1b}}
tokenizer: {{_component_: torchtune.models.qwen2_5.qwen2_5_tokenizer, path: "{model}/vocab.json", max_seq_len: 64}}
checkpointer: {{_component_: torchtune.training.FullModelHFCheckpointer, checkpoint_dir: "{model}"}}
dataset:
  _component_: torchtune.datasets.chat_dataset
  source: json
  data_files: chats.jsonl
  conversation_column: conversations
  conversation_style: sharegpt
batch_size: 8
epochs: 1
optimizer: {{_component_: torch.optim.AdamW, lr: 1e-3}}
loss: {{_component_: torchtune.modules.loss.LinearCrossEntropyLoss}}
max_steps_per_epoch: 3
dtype: fp32
"""
LLAMA_FACTORY = """
model_name_or_path: {model}
stage: dpo
finetuning_type: lora
lora_target: q_proj,v_proj
dataset: pairs
template: chatml
cutoff_len: 64
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
num_train_epochs: 1
learning_rate: 1e-3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_model):
    monkeypatch.chdir(tmp_path)
    sums = [(f"Add {i} and {i + 1}.", f"The sum is {2 * i + 1}.") for i in range(20)]
    write("alpaca.jsonl", [{"instruction": q, "input": "", "output": a} for q, a in sums])
    turns = [[{"from": "human", "value": q}, {"from": "gpt", "value": a}] for q, a in sums]
    write("chats.jsonl", [{"conversations": messages} for messages in turns])
    Path("data").mkdir()
    write("data/pairs.jsonl", [{"instruction": q, "input": "", "chosen": a, "rejected": "No."} for q, a in sums])
    columns = {"prompt": "instruction", "query": "input", "chosen": "chosen", "rejected": "rejected"}
    info = {"pairs": {"file_name": "pairs.jsonl", "ranking": True, "columns": columns}}
    Path("data/dataset_info.json").write_text(json.dumps(info))
    return tiny_model


def write(name, rows):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def imported(yaml, model):
    Path("config.yaml").write_text(yaml.format(model=model))
    assert command.main(["import", "config.yaml", "-o", "mine.py", "--force"]) == 0


@pytest.mark.parametrize(
    ("yaml", "steps", "adapter"), [(AXOLOTL, 5, True), (TORCHTUNE, 3, False), (LLAMA_FACTORY, 5, True)]
)
def test_an_experiment_runs_to_the_end(yaml, steps, adapter, folder, monkeypatch):
    """In this process, which has JAX loaded already."""
    imported(yaml, folder)
    monkeypatch.setattr(sys, "argv", ["mine.py", "--prefix", "store", "--backend", "inline"])
    runpy.run_path("mine.py", run_name="__main__")
    (trained,) = Path("store/checkpoints").glob("*/latest")
    metrics = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["step"] == steps
    assert (trained / "adapter").exists() == adapter
    (exported,) = Path("store/hf").glob("*/latest")
    assert (exported / "model.safetensors").exists() and (exported / "tokenizer.json").exists()


def test_the_text_of_an_experiment_can_be_looked_at(folder, capsys):
    imported(AXOLOTL, folder)
    assert command.main(["preview", "mine.py", "--rows", "1"]) == 0
    tokens = capsys.readouterr().out.replace("|", "")
    assert "### Response:" in tokens and "+ The sum is 1." in tokens


def texts(tokenizer, row):
    """The text that the experiment makes of a row, and what of it is trained."""
    (tokens,) = runpy.run_path("mine.py")["tokenized"].values()
    encoded = encode(tokenizer, example_of(row, tokens.config.format), tokens.config.format)
    return tokenizer.decode(encoded.input_ids), tokenizer.decode(encoded.input_ids[encoded.mask.astype(bool)])


def test_alpaca_of_axolotl_is_trained_in_its_own_words(folder):
    imported(AXOLOTL, folder)
    tokenizer = load_tokenizer(str(folder))
    end = tokenizer.eos_token
    text, trained = texts(tokenizer, {"instruction": "Add.", "input": "1, 2", "output": "3"})
    assert text == f"{INTRO}### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n3{end}"
    assert trained == f"3{end}"
    text, trained = texts(tokenizer, {"instruction": "Add {x}.", "input": "", "output": "3"})
    assert text == f"{INTRO_ALONE}### Instruction:\nAdd {{x}}.\n\n### Response:\n3{end}"
    assert trained == f"3{end}"
    imported(AXOLOTL + "train_on_inputs: true\n", folder)
    text, trained = texts(tokenizer, {"instruction": "Add.", "input": "1, 2", "output": "3"})
    assert text == trained


def test_a_text_begins_with_the_tokenizer_s_bos(folder):
    imported(AXOLOTL, folder)
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    text, _ = texts(tokenizer, {"instruction": "Add.", "input": "", "output": "3"})
    assert text.startswith("<s>Below is") and text.count("<s>") == 1


def test_alpaca_of_torchtune_is_a_turn_of_llama_3(folder):
    """With torchtune's alpaca_dataset all of it is trained, and a text ends after the last turn."""
    yaml = TORCHTUNE.replace("qwen2_5.qwen2_5_tokenizer", "llama3.llama3_tokenizer")
    yaml = yaml.replace("chat_dataset", "alpaca_dataset").replace("chats.jsonl", "alpaca.jsonl")
    yaml = yaml.replace("  conversation_column: conversations\n  conversation_style: sharegpt\n", "")
    imported(yaml, folder)
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_special_tokens({"additional_special_tokens": LLAMA3_TOKENS})
    tokenizer.bos_token, tokenizer.eos_token = "<|begin_of_text|>", "<|eot_id|>"
    text, trained = texts(tokenizer, {"instruction": "Add.", "input": "", "output": "3"})
    prompt = f"{INTRO_ALONE}### Instruction:\nAdd.\n\n### Response:"
    user, answer = (f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "assistant"))
    assert text == trained == f"<|begin_of_text|>{user}{prompt}<|eot_id|>{answer}3<|eot_id|><|end_of_text|>"
    imported(yaml.replace("data_files:", "train_on_input: False\n  data_files:"), folder)
    _, trained = texts(tokenizer, {"instruction": "Add.", "input": "", "output": "3"})
    assert trained == "3<|eot_id|><|end_of_text|>"


def test_prompts_of_a_config_s_own(folder):
    own = """    type:
      system_prompt: Be brief.
      system_format: "[S] {{system}}\\n"
      field_instruction: q
      field_input: context
      field_output: a
      format: "[Q] {{instruction}} ({{input}})\\n[A]\\n"
      no_input_format: "[Q] {{instruction}}\\n[A]\\n"
"""
    imported(AXOLOTL.replace("    type: alpaca\n", own), folder)
    tokenizer = load_tokenizer(str(folder))
    text, trained = texts(tokenizer, {"q": "1+1?", "context": "sums", "a": "2"})
    assert (text, trained) == (
        f"[S] Be brief.\n[Q] 1+1? (sums)\n[A]\n2{tokenizer.eos_token}",
        f"2{tokenizer.eos_token}",
    )
    assert texts(tokenizer, {"q": "1+1?", "a": "2"})[0] == f"[S] Be brief.\n[Q] 1+1?\n[A]\n2{tokenizer.eos_token}"


def test_a_server_words_a_question_as_alpaca_does(folder):
    """The template goes with the export: a plain question of a user gets the prompt that was trained."""
    imported(AXOLOTL, folder)
    tokenizer = load_tokenizer(str(folder))
    template = runpy.run_path("mine.py")["ALPACA"]
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Add."}], chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert asked == f"{INTRO_ALONE}### Instruction:\nAdd.\n\n### Response:\n"
