"""LoRA of Qwen2.5 1.5B on the cleaned Alpaca instructions, three epochs on one GPU.

    python experiments/exp_sft_alpaca_lora.py --dry_run
    python marin_sft/run/ray_run.py --env_vars HF_TOKEN -- python experiments/exp_sft_alpaca_lora.py
    MARIN_SFT_SCALE=tiny python experiments/exp_sft_alpaca_lora.py     # see scale.py

Writes `checkpoints/qwen2.5_1.5b_alpaca_lora_seed0`, with `adapter` for PEFT, `model`, in which the adapter is merged,
and `hf/step-N` every 1000 steps. At the end, it writes `hf/qwen2.5_1.5b_alpaca_lora`, the whole model to serve.
"""

from marin_sft import executor_main
from marin_sft.data import ChatLmDatasetFormat
from marin_sft.execution.resources import GpuConfig
from marin_sft.recipes.defaults import default_sft, default_tokenize
from marin_sft.recipes.instruction_datasets import get_instruction_dataset
from marin_sft.recipes.qwen import qwen2_5_1_5b, qwen2_5_1_5b_tokenizer
from marin_sft.recipes.scale import at_scale, shape_at_scale
from marin_sft.recipes.simple_configs import SimpleSFTConfig
from marin_sft.steps import export

NAME = "qwen2.5_1.5b_alpaca_lora"
MODEL_ID = "Qwen/Qwen2.5-1.5B"

alpaca = get_instruction_dataset("yahma/alpaca-cleaned", splits=["train"])

tokenization_step = default_tokenize(
    name="alpaca_cleaned_qwen2.5",
    dataset=alpaca / "**/*.jsonl.gz",
    tokenizer=qwen2_5_1_5b_tokenizer,
    format=ChatLmDatasetFormat(),
)

sft_config = SimpleSFTConfig(
    resources=GpuConfig(gpu_count=1),
    train_batch_size=16,
    per_device_parallelism=4,
    num_train_epochs=3,
    learning_rate=2e-5,
    max_grad_norm=1.0,
    use_lora=True,
    lora_r=8,
    lora_alpha=16,
    lora_dropout=0.05,
    tokenizer=qwen2_5_1_5b_tokenizer,
    model_name_or_path=MODEL_ID,
    max_seq_len=2048,
    steps_per_checkpoint=1000,
    steps_per_hf_export=1000,
)

training_step = default_sft(
    name=NAME,
    tokenized=tokenization_step,
    model_config=shape_at_scale(qwen2_5_1_5b),
    sft_config=at_scale(sft_config),
    tags=["qwen2.5", "alpaca", "lora"],
)

if __name__ == "__main__":
    executor_main(steps=[tokenization_step, training_step, export(NAME, training_step)])
