"""SFT of Llama 3.1 8B Instruct on the helpful answers of HH-RLHF, a tenth of them, three epochs.

    python experiments/exp_sft_hh_rlhf_llama3.py --dry_run
    python marin_sft/run/ray_run.py --env_vars HF_TOKEN -- python experiments/exp_sft_hh_rlhf_llama3.py
    MARIN_SFT_SCALE=tiny python experiments/exp_sft_hh_rlhf_llama3.py     # see scale.py

The column `chosen` is trained as plain text, packed, without a chat template. The held-out file is for validation.

Writes `checkpoints/llama3.1_hh_rlhf_seed0`, with `hf/step-N` every 500 steps, and at the end `hf/llama3.1_hh_rlhf`.
"""

from marin_sft import ExecutorStep, executor_main
from marin_sft.data import TextLmDatasetFormat, TokenizeConfig
from marin_sft.data.adapters import UnchangedAdapter
from marin_sft.data.data_configs import lm_data_config
from marin_sft.recipes.defaults import default_sft, default_tokenize
from marin_sft.recipes.instruction_datasets import get_instruction_dataset
from marin_sft.recipes.llama import llama_3_1_8b_instruct, llama_3_1_8b_instruct_tokenizer
from marin_sft.recipes.preference_datasets import PREFERENCE_DATASET_NAME_TO_CONFIG
from marin_sft.recipes.scale import at_scale, shape_at_scale
from marin_sft.recipes.simple_configs import SimpleSFTConfig
from marin_sft.steps import export

NAME = "llama3.1_hh_rlhf"
MODEL_ID = "meta-llama/Llama-3.1-8B-Instruct"
DATASET_ID = "Anthropic/hh-rlhf"


def tokenized(name: str, split: str, is_validation: bool = False) -> ExecutorStep[TokenizeConfig]:
    """A split of `helpful-base` as published: dialogues as texts in the columns chosen and rejected."""
    rows = get_instruction_dataset(
        DATASET_ID,
        splits=[split],
        name=name,
        revision=PREFERENCE_DATASET_NAME_TO_CONFIG[DATASET_ID].revision,
        data_dir="helpful-base",
        adapter=UnchangedAdapter(),
    )
    return default_tokenize(
        name=name,
        dataset=rows / "**/*.jsonl.gz",
        tokenizer=llama_3_1_8b_instruct_tokenizer,
        format=TextLmDatasetFormat(text_key="chosen"),
        is_validation=is_validation,
    )


tokenization_step = tokenized("hh_rlhf_helpful", "train[:10%]")
held_out = tokenized("hh_rlhf_helpful_held_out", "test", is_validation=True)

sft_config = SimpleSFTConfig(
    tpu_type="v4-64",
    train_batch_size=16,
    num_train_epochs=3,
    learning_rate=2e-5,
    min_lr_ratio=0.25,  # down to 5e-6
    warmup=0.0,
    tokenizer=llama_3_1_8b_instruct_tokenizer,
    model_name_or_path=MODEL_ID,
    max_seq_len=4096,
    steps_per_eval=100,
)

training_step = default_sft(
    name=NAME,
    tokenized=lm_data_config(tokenization_step, {"held_out": held_out}),
    model_config=shape_at_scale(llama_3_1_8b_instruct),
    sft_config=at_scale(sft_config),
    tags=["llama", "hh-rlhf"],
)

if __name__ == "__main__":
    executor_main(steps=[tokenization_step, training_step, export(NAME, training_step)])
