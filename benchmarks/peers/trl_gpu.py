"""TRL's SFT with packing, or its DPO with a precomputed reference, on one GPU: the model and lengths of gpu_sft.py.

trl_gpu.py sft ATTENTION/WEIGHTS/ROWS...  --folder F [--tiny]     packed rows of 4096 tokens, or of 256
trl_gpu.py dpo ATTENTION/WEIGHTS/PAIRS... --folder F [--tiny]

F is what `gpu_checks.py prepare` made: its tokenizer and pairs are used.

ATTENTION is a value of `attn_implementation` ("sdpa", "flex_attention"). WEIGHTS: "mixed", float32 weights and
bfloat16 passes, as ours, or "bf16", all in bfloat16. Gradient checkpointing is on, as in TRL by default. Each setting
runs in its own process; its figures are printed as soon as they are known.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from figures import DOES_NOT_FIT, each_alone, tell
from gpu_checks import PAIRS

WARM = 3  # steps
SHAPE = dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32)
TINY = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4)


def model(tiny: bool, attention: str, weights: str, length: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape, kv, vocabulary = (TINY, 2, 1024) if tiny else (SHAPE, 8, 128_256)
    config = LlamaConfig(
        **shape,
        num_key_value_heads=kv,
        vocab_size=vocabulary,
        max_position_embeddings=length,
        tie_word_embeddings=True,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        return LlamaForCausalLM(config).to(torch.bfloat16 if weights == "bf16" else torch.float32)


def clock() -> Any:
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        """When each step ended."""

        def __init__(self) -> None:
            self.ended: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ended.append(time.perf_counter())

    return Clock()


def common(output: str, steps: int, batch: int, weights: str) -> dict[str, Any]:
    import torch

    cuda = torch.cuda.is_available()
    return {
        "output_dir": output,
        "max_steps": WARM + steps,
        "per_device_train_batch_size": batch,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 100,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": not cuda,
        "bf16": weights == "mixed",
        "gradient_checkpointing": True,
        "optim": "adamw_torch_fused" if cuda else "adamw_torch",
    }


def sft(setting: str, steps: int, tiny: bool, folder: str) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    attention, weights, rows = setting.split("/")
    length, vocabulary = (256, 1024) if tiny else (4096, 128_256)
    rng, mean = random.Random(0), length // 10
    documents = []
    for _ in range(12 * int(rows) * (WARM + steps)):
        size = rng.randrange(mean // 2, 3 * mean // 2)
        ids = [rng.randrange(vocabulary) for _ in range(size)]
        documents.append({"input_ids": ids, "completion_mask": [int(i >= size // 2) for i in range(size)]})
    with tempfile.TemporaryDirectory() as output:
        config = SFTConfig(
            **common(output, steps, int(rows), weights),
            max_length=length,
            packing=True,
            packing_strategy="bfd",
            completion_only_loss=True,
        )
        trainer = SFTTrainer(
            model(tiny, attention, weights, length),
            args=config,
            train_dataset=Dataset.from_list(documents),
            processing_class=_tokenizer(folder),
            callbacks=[ends := clock()],
        )
        trainer.train()
    seconds = (ends.ended[-1] - ends.ended[WARM - 1]) / steps
    packed = sum(len(row["input_ids"]) for row in trainer.train_dataset) / len(trainer.train_dataset)
    _told(f"trl sft {setting}", setting, seconds, int(rows) * packed)


def dpo(setting: str, steps: int, tiny: bool, folder: str) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    attention, weights, pairs = setting.split("/")
    lines = Path(folder, "pairs.jsonl").read_text().splitlines()
    tokenizer = _tokenizer(folder)
    length = json.loads(Path(folder, "model/config.json").read_text())["max_position_embeddings"]
    with tempfile.TemporaryDirectory() as output:
        config = DPOConfig(
            **common(output, steps, int(pairs), weights), max_length=length, precompute_ref_log_probs=True
        )
        trainer = DPOTrainer(
            model=model(tiny, attention, weights, length),
            args=config,
            train_dataset=Dataset.from_list([json.loads(line) for line in lines]),
            processing_class=tokenizer,
            callbacks=[ends := clock()],
        )
        trainer.train()
    seconds = (ends.ended[-1] - ends.ended[WARM - 1]) / steps
    rows = [json.loads(line) for line in lines]
    count = [
        len(tokenizer.apply_chat_template([*row["prompt"], *row[key]], tokenize=True, return_dict=True)["input_ids"])
        for row in rows
        for key in ("chosen", "rejected")
    ]
    _told(f"trl dpo {setting}", setting, seconds, 2 * int(pairs) * sum(count) / len(count), int(pairs))


def _told(what: str, setting: str, seconds: float, tokens: float, pairs: int | None = None) -> None:
    import torch

    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    memory = "memory not known" if peak is None else f"{peak:.1f} GiB"
    start = "" if pairs is None else f"{pairs / seconds:.1f} pairs/s, "
    text = f"{start}{tokens / seconds:,.0f} tokens/s, {memory}, a step {1000 * seconds:.0f} ms"
    tell(what, text, setting=setting, step_seconds=seconds, tokens_per_second=tokens / seconds, memory_gib=peak)


def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(f"{folder}/tokenizer", trust_remote_code=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sft", "dpo"])
    parser.add_argument("settings", nargs="+", metavar="SETTING")
    parser.add_argument("--folder", required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--here", action="store_true", help="one setting, in this process")
    given = parser.parse_args()
    work = {"sft": sft, "dpo": dpo}[given.what]
    if given.here:
        what = f"trl {given.what} {given.settings[0]}"
        try:
            work(given.settings[0], given.steps, given.tiny, f"{given.folder}/{PAIRS}")
        except Exception as error:
            if "out of memory" in str(error):
                tell(what, "does not fit into memory")
                sys.exit(DOES_NOT_FIT)
            tell(what, f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")
            raise
        return
    options = ["--folder", given.folder, "--steps", str(given.steps), *(["--tiny"] if given.tiny else [])]
    each_alone(f"trl {given.what}", given.settings, [sys.executable, __file__, given.what, "--here", *options])


if __name__ == "__main__":
    main()
