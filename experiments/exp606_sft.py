"""SFT on one dataset: Llama 3.1 8B on the Tulu 2 mixture, three epochs on a v4-128.

    python experiments/exp606_sft.py --dry_run
    python marin_sft/run/ray_run.py --env_vars HF_TOKEN -- python experiments/exp606_sft.py
    MARIN_SFT_SCALE=tiny python experiments/exp606_sft.py     # see scale.py

Writes `checkpoints/llama3.1_tulu_sft_seed0`, with `hf/step-N` every 500 steps, and at the end `hf/llama3.1_tulu_sft`.
"""

from marin_sft import executor_main
from marin_sft.data import ChatLmDatasetFormat
from marin_sft.recipes.defaults import default_sft, default_tokenize
from marin_sft.recipes.instruction_datasets import get_instruction_dataset
from marin_sft.recipes.llama import llama_3_1_8b_instruct_tokenizer, llama_8b
from marin_sft.recipes.scale import at_scale, shape_at_scale
from marin_sft.recipes.simple_configs import SimpleSFTConfig
from marin_sft.steps import export

NAME = "llama3.1_tulu_sft"

instruction_dataset = get_instruction_dataset("allenai/tulu-v2-sft-mixture", splits=["train"])

tokenization_step = default_tokenize(
    name="tulu_v2_sft",
    dataset=instruction_dataset / "**/*.jsonl.gz",
    # The vocabulary of the base model, with a chat template, which the base model's tokenizer lacks.
    tokenizer=llama_3_1_8b_instruct_tokenizer,
    format=ChatLmDatasetFormat(input_field="user", output_field="assistant"),
)

sft_config = SimpleSFTConfig(
    tpu_type="v4-128",
    train_batch_size=128,
    num_train_epochs=3,
    learning_rate=5e-6,
    tokenizer=llama_3_1_8b_instruct_tokenizer,
    model_name_or_path="meta-llama/Llama-3.1-8B",
    max_seq_len=4096,
    input_role="user",
    output_role="assistant",
    steps_per_checkpoint=1000,
    steps_per_hf_export=500,
    seed=0,
)

training_step = default_sft(
    name=NAME,
    tokenized=tokenization_step,
    model_config=shape_at_scale(llama_8b),
    sft_config=at_scale(sft_config),
    tags=["llama", "tulu"],
)

if __name__ == "__main__":
    executor_main(steps=[tokenization_step, training_step, export(NAME, training_step)])
