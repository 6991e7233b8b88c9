"""SFT on a mixture: Llama 3.1 8B on nine instruction and reasoning datasets, weighted by their numbers of documents.

    python experiments/exp808_sft_mixture.py --dry_run
    python marin_sft/run/ray_run.py --env_vars HF_TOKEN -- python experiments/exp808_sft_mixture.py
    python marin_sft/run/ray_run.py --env_vars HF_TOKEN -- python experiments/exp808_sft_mixture.py \
        --force_run '["tokenized/smoltalk"]'
    MARIN_SFT_SCALE=tiny python experiments/exp808_sft_mixture.py     # see scale.py

Writes `checkpoints/llama3.1_mixture_total_seed0`, with `hf/step-N` every 500 steps, and at the end
`hf/llama3.1_mixture_total`.
"""

from marin_sft import ExecutorStep, executor_main
from marin_sft.data import ChatLmDatasetFormat, TokenizeConfig, lm_mixture_data_config
from marin_sft.recipes.defaults import default_sft, default_tokenize
from marin_sft.recipes.instruction_datasets import get_instruction_dataset
from marin_sft.recipes.llama import llama_8b, marin_tokenizer
from marin_sft.recipes.scale import at_scale, shape_at_scale
from marin_sft.recipes.simple_configs import SimpleSFTConfig
from marin_sft.steps import export

NAME = "llama3.1_mixture_total"
THREE_EPOCHS = 19086
"""Training steps, as in Marin's run: three epochs over packed rows of all nine datasets."""

DATASETS = {
    "acecode_89k": "TIGER-Lab/AceCode-89K",
    "smoltalk": "HuggingFaceTB/smoltalk",
    "verifiable_math_problems": "PrimeIntellect/verifiable-math-problems",
    "dolphin_r1_nonreasoning": "cognitivecomputations/dolphin-r1-nonreasoning",
    "dolphin_r1_reasoning": "cognitivecomputations/dolphin-r1-reasoning",
    "bespoke_stratos_17k": "bespokelabs/Bespoke-Stratos-17k",
    "openthoughts_114k_math": "open-r1/OpenThoughts-114k-math",
    "tulu_3_sft_mixture": "allenai/tulu-3-sft-mixture",
    "natural_reasoning": "facebook/natural_reasoning",
}

# The numbers of their documents.
mixture_weights = {
    "acecode_89k": 87149,
    "smoltalk": 1043917,
    "verifiable_math_problems": 777457,
    "dolphin_r1_nonreasoning": 214318,
    "dolphin_r1_reasoning": 585418,
    "bespoke_stratos_17k": 16710,
    "openthoughts_114k_math": 89120,
    "tulu_3_sft_mixture": 939343,
    "natural_reasoning": 1145824,
}


def create_tokenization_step(short_name: str, dataset_name: str) -> ExecutorStep[TokenizeConfig]:
    """`tokenized/{short_name}`: the training split of a registered dataset."""
    dataset = get_instruction_dataset(dataset_name, splits=["train"])
    return default_tokenize(
        name=short_name,
        dataset=dataset / "**/*.jsonl.gz",
        tokenizer=marin_tokenizer,
        format=ChatLmDatasetFormat(),
    )


tokenized_datasets = {name: create_tokenization_step(name, dataset) for name, dataset in DATASETS.items()}

mixture_config = lm_mixture_data_config(tokenized_datasets, mixture_weights)

sft_config = SimpleSFTConfig(
    tpu_type="v4-128",
    train_batch_size=128,
    num_train_steps=THREE_EPOCHS,
    learning_rate=5e-6,
    tokenizer=marin_tokenizer,
    model_name_or_path="meta-llama/Llama-3.1-8B",
    max_seq_len=4096,
    seed=0,
)

training_step = default_sft(
    name=NAME,
    tokenized=mixture_config,
    model_config=shape_at_scale(llama_8b),
    sft_config=at_scale(sft_config),
    mixture_weights=mixture_weights,
    tags=["llama", "mixture"],
)

if __name__ == "__main__":
    executor_main(steps=[*tokenized_datasets.values(), training_step, export(NAME, training_step)])
