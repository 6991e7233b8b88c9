"""The repositories that the seeds' experiments name, on a hub on loopback: datasets of a few rows, models of a few
kilobytes, with the names, revisions, file names, columns and chat templates of the published ones."""

import contextlib
import gzip
import json
from pathlib import Path

from experiments.instruction_datasets import INSTRUCTION_DATASET_NAME_TO_CONFIG
from experiments.preference_datasets import PREFERENCE_DATASET_NAME_TO_CONFIG
from marin_sft.data.tokenizer import load_tokenizer
from marin_sft.data.train_tokenizer import TrainTokenizerConfig, train_tokenizer
from marin_sft.recipes.hub_revisions import HUB_REVISIONS
from marin_sft.training.models import LlamaConfig, Qwen3Config, QwenConfig
from marin_sft.training.models.random_model import random_model
from marin_sft.training.models.random_model_config import RandomModelConfig
from tests.experiments.schemas import INSTRUCTIONS, TRAIN_ONLY, assistant, parquet, turns, user
from tests.hub_server import HubServer

TEMPLATES = Path(__file__).parents[1] / "data/chat/templates"
LLAMA_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
QWEN_TOKENS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
SHAPE = {
    "max_seq_len": 512, "hidden_dim": 32, "intermediate_dim": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2
}  # fmt: skip
# As Marin's tokenizer: Llama 3's template, in which the assistant's turns are marked.
MARKED = """{{ bos_token }}{% for message in messages -%}
<|start_header_id|>{{ message['role'] }}<|end_header_id|>

{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] | trim }}<|eot_id|>{% endgeneration %}
{%- else %}{{ message['content'] | trim }}<|eot_id|>{% endif %}
{%- endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""


@contextlib.contextmanager
def tiny_hub(root: Path):
    """A `HubServer` with all of it. What the models are made of lies in `root`."""
    directories = tiny_models(root)
    with HubServer() as hub:
        for id, directory in directories.items():
            files = {path.name: path.read_bytes() for path in directory.iterdir()}
            hub.add_model(id, files, tag=HUB_REVISIONS[id])
        for name, published in INSTRUCTIONS.items():
            revision = INSTRUCTION_DATASET_NAME_TO_CONFIG[name].revision
            hub.add_dataset(published.repository, published.files, tag=None if revision == "main" else revision)
        hub.add_dataset(
            "Anthropic/hh-rlhf", hh_rlhf(), tag=PREFERENCE_DATASET_NAME_TO_CONFIG["Anthropic/hh-rlhf"].revision
        )
        mix = "mlabonne/orpo-dpo-mix-40k"
        hub.add_dataset(mix, orpo_dpo_mix(), tag=PREFERENCE_DATASET_NAME_TO_CONFIG[mix].revision)
        yield hub


def hh_rlhf() -> dict[str, bytes]:
    """Forty texts to train on, of which a tenth is four, and five to validate on."""

    def texts(first: int, count: int) -> bytes:
        pairs = [f"\n\nHuman: What is {i} + 1?\n\nAssistant: " for i in range(first, first + count)]
        rows = [{"chosen": f"{pair}{i + 1}.", "rejected": f"{pair}No."} for i, pair in enumerate(pairs, start=first)]
        return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())

    return {"helpful-base/train.jsonl.gz": texts(0, 40), "helpful-base/test.jsonl.gz": texts(100, 5)}


def orpo_dpo_mix() -> dict[str, bytes]:
    """Forty pairs of dialogues."""

    def dialogue(i: int, answer: str) -> list[dict[str, str]]:
        return turns(user(f"What is {i} + 1?"), assistant(answer))

    pairs = [(dialogue(i, f"{i} + 1 is {i + 1}."), dialogue(i, "No.")) for i in range(40)]
    rows = [
        {"source": "sums", "chosen": chosen, "rejected": rejected, "prompt": chosen[0]["content"], "question": None}
        for chosen, rejected in pairs
    ]
    return {"README.md": TRAIN_ONLY, "data/train-00000-of-00001.parquet": parquet(*rows)}


def tiny_models(root: Path) -> dict[str, Path]:
    """Directories of models and tokenizers by their ids. Those of Llama 3 have one vocabulary."""
    words = root / "words.jsonl"
    rows = [row for published in INSTRUCTIONS.values() for some in published.rows.values() for row in some]
    words.write_text("".join(json.dumps({"messages": row["messages"]}) + "\n" for row in rows))
    train_tokenizer(TrainTokenizerConfig((str(words),), 400, output_path=str(root / "plain")))
    llama, qwen = LlamaConfig(**SHAPE), Qwen3Config(**SHAPE, tie_word_embeddings=False)
    template = {name: (TEMPLATES / f"{name}.jinja").read_text().rstrip("\n") for name in ("llama3", "qwen2_5", "qwen3")}
    llama_base = tiny_tokenizer(root, LLAMA_TOKENS, None, eos="<|end_of_text|>")
    llama_chat = tiny_tokenizer(root, LLAMA_TOKENS, template["llama3"], eos="<|eot_id|>")
    marked = tiny_tokenizer(root, LLAMA_TOKENS, MARKED, eos="<|end_of_text|>")
    qwen2_chat = tiny_tokenizer(root, QWEN_TOKENS, template["qwen2_5"], eos="<|im_end|>")
    qwen_chat = tiny_tokenizer(root, QWEN_TOKENS, template["qwen3"], eos="<|im_end|>")
    return {
        "marin-community/marin-tokenizer": marked,
        "meta-llama/Llama-3.1-8B": tiny_model(root, llama, llama_base),
        "meta-llama/Llama-3.1-8B-Instruct": tiny_model(root, llama, llama_chat),
        "Qwen/Qwen2.5-1.5B": tiny_model(root, QwenConfig(**SHAPE, tie_word_embeddings=True), qwen2_chat),
        "Qwen/Qwen3-14B": tiny_model(root, qwen, qwen_chat),
    }


def tiny_tokenizer(root: Path, special: list[str], template: str | None, eos: str) -> Path:
    """The trained tokenizer with the special tokens and the template of a family."""
    tokenizer = load_tokenizer(str(root / "plain"))
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.eos_token, tokenizer.chat_template = eos, template
    if "<|begin_of_text|>" in special:
        tokenizer.bos_token = "<|begin_of_text|>"
    path = root / f"tokenizer-{len(list(root.iterdir()))}"
    tokenizer.save_pretrained(path)
    return path


def tiny_model(root: Path, shape: LlamaConfig, tokenizer: Path) -> Path:
    path = root / f"model-{len(list(root.iterdir()))}"
    path.mkdir()
    random_model(RandomModelConfig(model=shape, tokenizer=str(tokenizer), output_path=str(path)))
    return path
