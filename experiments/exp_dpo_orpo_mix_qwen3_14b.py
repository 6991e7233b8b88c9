"""DPO of Qwen3 14B on orpo-dpo-mix-40k, one epoch on a v4-64.

    python experiments/exp_dpo_orpo_mix_qwen3_14b.py --dry_run
    python marin_sft/run/ray_run.py --env_vars HF_TOKEN -- python experiments/exp_dpo_orpo_mix_qwen3_14b.py
    MARIN_SFT_SCALE=tiny python experiments/exp_dpo_orpo_mix_qwen3_14b.py     # see scale.py

Chosen and rejected are whole dialogues: their prompt is what they have in common. The reference is the base model; its
log-probabilities are computed once, by `reference_logprobs/...`.

Writes `checkpoints/qwen3_14b_orpo_dpo_mix_seed0`, with `hf/step-N` every 1000 steps, and at the end
`hf/qwen3_14b_orpo_dpo_mix`.
"""

from marin_sft import executor_main
from marin_sft.data import PreferenceChatLmDatasetFormat
from marin_sft.recipes.defaults import default_dpo, default_tokenize
from marin_sft.recipes.preference_datasets import get_preference_dataset
from marin_sft.recipes.qwen import qwen3_14b, qwen3_tokenizer
from marin_sft.recipes.scale import dpo_at_scale, shape_at_scale
from marin_sft.recipes.simple_configs import SimpleDPOConfig
from marin_sft.steps import export

NAME = "qwen3_14b_orpo_dpo_mix"
MODEL_ID = "Qwen/Qwen3-14B"
DATASET_ID = "mlabonne/orpo-dpo-mix-40k"

pairs = get_preference_dataset(DATASET_ID, splits=["train"])

tokenization_step = default_tokenize(
    name="orpo_dpo_mix_qwen3",
    dataset=pairs / "**/*.jsonl.gz",
    tokenizer=qwen3_tokenizer,
    format=PreferenceChatLmDatasetFormat(),
)

dpo_config = SimpleDPOConfig(
    tpu_type="v4-64",
    train_batch_size=32,
    num_train_epochs=1,
    learning_rate=1e-5,
    lr_schedule="cosine",
    min_lr_ratio=0.05,  # down to 5e-7
    max_grad_norm=1.0,
    beta=0.1,
    max_prompt_length=2048,
    max_completion_length=2048,
    max_seq_len=4096,
    validation_split_fraction=0.02,
    tokenizer=qwen3_tokenizer,
    model_name_or_path=MODEL_ID,
    steps_per_eval=100,
    steps_per_checkpoint=1000,
    steps_per_hf_export=1000,
)

training_step = default_dpo(
    name=NAME,
    tokenized=tokenization_step,
    model_config=shape_at_scale(qwen3_14b),
    dpo_config=dpo_at_scale(dpo_config),
    tags=["qwen3", "orpo-dpo-mix"],
)

if __name__ == "__main__":
    executor_main(steps=[tokenization_step, training_step, export(NAME, training_step)])
