"""SFT of Qwen3 14B on WildChat, one epoch on a v4-64.

    python experiments/exp_sft_wildchat_qwen3_14b.py --dry_run
    python marin_sft/run/ray_run.py --env_vars HF_TOKEN -- python experiments/exp_sft_wildchat_qwen3_14b.py
    MARIN_SFT_SCALE=tiny python experiments/exp_sft_wildchat_qwen3_14b.py     # see scale.py

Each conversation is rendered by the model's chat template, gets its own row, and is trained as a whole, including the
user's turns. To train only the assistant's turns, leave out `train_on`.

Writes `checkpoints/qwen3_14b_wildchat_seed0`, with `hf/step-N` every 1000 steps, and at the end
`hf/qwen3_14b_wildchat`.
"""

from marin_sft import executor_main
from marin_sft.data import ChatLmDatasetFormat
from marin_sft.recipes.defaults import default_sft, default_tokenize
from marin_sft.recipes.instruction_datasets import get_instruction_dataset
from marin_sft.recipes.qwen import qwen3_14b, qwen3_tokenizer
from marin_sft.recipes.scale import at_scale, shape_at_scale
from marin_sft.recipes.simple_configs import SimpleSFTConfig
from marin_sft.steps import export

NAME = "qwen3_14b_wildchat"
MODEL_ID = "Qwen/Qwen3-14B"
DATASET_ID = "allenai/WildChat"

wildchat = get_instruction_dataset(DATASET_ID, splits=["train"])

tokenization_step = default_tokenize(
    name="wildchat_qwen3",
    dataset=wildchat / "**/*.jsonl.gz",
    tokenizer=qwen3_tokenizer,
    format=ChatLmDatasetFormat(train_on="all", pack=False),
)

sft_config = SimpleSFTConfig(
    tpu_type="v4-64",
    train_batch_size=32,
    num_train_epochs=1,
    learning_rate=1e-5,
    lr_schedule="cosine",
    min_lr_ratio=0.7,  # down to 7e-6
    warmup=0.0,
    max_grad_norm=1.0,
    tokenizer=qwen3_tokenizer,
    model_name_or_path=MODEL_ID,
    max_seq_len=4096,
    steps_per_checkpoint=1000,
    steps_per_hf_export=1000,
)

training_step = default_sft(
    name=NAME,
    tokenized=tokenization_step,
    model_config=shape_at_scale(qwen3_14b),
    sft_config=at_scale(sft_config),
    tags=["qwen3", "wildchat"],
)

if __name__ == "__main__":
    executor_main(steps=[tokenization_step, training_step, export(NAME, training_step)])
