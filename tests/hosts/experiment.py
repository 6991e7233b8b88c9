"""A short SFT of a tiny model on HOSTS hosts, of STEPS steps with a checkpoint after every CHECKPOINT of them."""

import os

from experiments.quickstart_data import QuickstartDataConfig, make_dialogues
from marin_sft import CpuConfig, ExecutorStep, executor_main
from marin_sft.steps import mixture, random_model, sft, tokenize, train_tokenizer
from marin_sft.training.models import Qwen3Config

documents = ExecutorStep(
    "documents/opposites", make_dialogues, QuickstartDataConfig("opposites", train_dialogues=300, held_out_prompts=10)
)
rows = documents / "train/*.jsonl.gz"
tokenizer = train_tokenizer("tiny", [rows], vocab_size=320)
shape = Qwen3Config(
    max_seq_len=64, hidden_dim=32, intermediate_dim=64, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=16
)
tokens = {"opposites": tokenize("opposites", rows, tokenizer=tokenizer)}
trained = sft(
    "tiny",
    mixture=mixture("tiny", tokens, weights={"opposites": 1}, seq_len=64),
    base_model=random_model("tiny", shape, tokenizer=tokenizer),
    train_batch_size=8,
    num_train_steps=int(os.environ.get("STEPS", "100")),
    learning_rate=0.001,
    precision="fp32",
    steps_per_log=1,
    steps_per_checkpoint=int(os.environ.get("CHECKPOINT", "10")),
    gradient_checkpointing=False,
    resources=CpuConfig(cpus=1, hosts=int(os.environ.get("HOSTS", "2"))),
)

if __name__ == "__main__":
    executor_main(steps=[trained])
