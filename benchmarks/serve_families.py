"""Checks that exports of every family, and of published models, give the same results in transformers 4 and 5.

make peers-transformers5
.venv/bin/python benchmarks/serve_families.py [--only PATTERN] [--keep FOLDER]

For each family: a small random model with a tokenizer of the family's kind is fine-tuned on a few questions until it
answers, exported, and compared as in `serve_export.py`. So is each release of `tests/published/releases.py`, by its
name there. Exits with 1 if anything differs that the export does not announce
(`marin_sft.export.tokenizer_files.limits`).
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_export import ROOT, compare

sys.path.insert(0, str(ROOT))
from tests.published import releases
from tests.published import tiny_tokenizers as T

QUESTIONS = {"2 + 2 = ?": "It is 4.", "Who is there?": "It's me, été.", "Count.": "1, 2, 3"}
WINDOW = 8
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Family:
    """`config`: class of the config in transformers. `tokenizer`, `template`: from `tiny_tokenizers`. `told`: what the
    export announces as different in transformers 5."""

    config: str
    tokenizer: Callable[[], Any]
    template: str
    fields: dict[str, Any]
    told: tuple[str, ...] = ()


GEMMA = {"head_dim": 16, "sliding_window": WINDOW}
OLMO3 = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES = {
    "llama": Family("LlamaConfig", T.llama2, "zephyr", {"rope_theta": 3000.0}),
    "llama 3": Family("LlamaConfig", T.llama3, "llama3", {"rope_theta": 500000.0, "rope_scaling": LLAMA3_ROPE}),
    "llama, GPT-2's tokenizer": Family("LlamaConfig", T.olmo, "chatml", {}),
    "mistral": Family("MistralConfig", T.llama2, "mistral", {"sliding_window": WINDOW, "rope_theta": 1e6}),
    "qwen2": Family("Qwen2Config", T.qwen, "qwen2_5", {"rope_theta": 1e6, "tie_word_embeddings": True}),
    "qwen2, a tokenizer of ours": Family("Qwen2Config", T.plain, "chatml", {}, told=("ids", "texts")),
    "qwen3": Family("Qwen3Config", T.qwen, "qwen3", {"rope_theta": 1e6, "head_dim": 16}),
    "qwen3, a tokenizer of ours": Family("Qwen3Config", T.plain, "chatml", {"head_dim": 16}),
    "gemma": Family("GemmaConfig", T.gemma, "gemma", {"head_dim": 16}),
    "gemma2": Family("Gemma2Config", T.gemma, "gemma", {**GEMMA, "query_pre_attn_scalar": 24}),
    "gemma3": Family("Gemma3TextConfig", T.gemma, "gemma", {**GEMMA, "sliding_window_pattern": 2}),
    "olmo2": Family("Olmo2Config", T.olmo, "chatml", {"rope_theta": 500000.0}),
    "olmo3": Family("Olmo3Config", T.olmo, "chatml", OLMO3),
}
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def write_base(folder: Path, family: Family) -> Path:
    """The model before training, as transformers 4 writes it."""
    import torch
    import transformers

    tokenizer = T.with_template(family.tokenizer(), family.template)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    # Published vocabularies are rounded up.
    fields = {**SIZES, **ids, "vocab_size": -(-len(tokenizer) // 64) * 64, **family.fields}
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, family.config)(**fields))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _written(folder: Path, name: str) -> Path:
    if name in FAMILIES:
        return write_base(folder, FAMILIES[name])
    return releases.write(folder, releases.RELEASES[name])


def fine_tuned(folder: Path, base: Path) -> str:
    """The path of the export of `base`, fine-tuned on the questions."""
    from marin_sft import Executor, ExecutorFlags
    from marin_sft.data import ChatLmDatasetFormat
    from marin_sft.steps import export, mixture, sft, tokenize

    rows = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in QUESTIONS.items()]
    documents = folder / "rows.jsonl"
    documents.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows * 4))
    tokens = {"chat": tokenize("chat", documents, tokenizer=base, format=ChatLmDatasetFormat())}
    blend = mixture("chat", tokens, weights={"chat": 1}, seq_len=128)
    options: dict[str, Any] = {"train_batch_size": 4, "num_train_steps": 60, "learning_rate": 1e-2, "precision": "fp32"}
    exported = export("chat", sft("chat", mixture=blend, base_model=base, **options))
    path = Executor(ExecutorFlags(prefix=str(folder / "store"), backend="inline")).run([exported]).output_path(exported)
    assert path is not None
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="families whose names match this pattern")
    parser.add_argument("--keep", type=Path, help="a new folder in which to keep everything")
    arguments = parser.parse_args()
    chosen = fnmatch.filter([*FAMILIES, *releases.RELEASES], arguments.only)
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in chosen:
            folder = (arguments.keep or Path(temporary)) / name.replace(", ", "-").replace(" ", "_")
            folder.mkdir(parents=True)
            path = fine_tuned(folder, _written(folder / "base", name))
            lines.append((name, compare(path, next(iter(QUESTIONS)))))
    print(f"\n{'family':<38} {'largest difference':>18}  {'stops':<6} differs")
    good = True
    for name, found in lines:
        told = FAMILIES[name].told if name in FAMILIES else ()
        good = good and found.good_but_for(told)
        differs = ", ".join(f"{what} (told)" if what in told else what for what in found.differs) or "-"
        print(f"{name:<38} {found.difference:>18.1e}  {str(found.stopped):<6} {differs}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
