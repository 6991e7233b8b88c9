"""Instruction datasets by their hub id, each with its commit and the columns that hold its dialogues.

    tulu = get_instruction_dataset("allenai/tulu-3-sft-mixture", splits=["train"])
    tokens = default_tokenize("tulu", tulu / "**/*.jsonl.gz", tokenizer=llama3_tokenizer, format=ChatLmDatasetFormat())

To add one, add an `InstructionDatasetConfig` to `INSTRUCTION_DATASET_NAME_TO_CONFIG`, or pass its fields:

    get_instruction_dataset("org/name", revision="1a2b3c4", adapter=multi_turn_adapter())

If the columns have common names, no adapter is needed: the shape of each row is detected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from marin_sft.data import DownloadConfig, TransformConfig
from marin_sft.data.adapters import Adapter, FormatAdapter, InputDatasetFormat, TransformAdapter
from marin_sft.errors import ConfigError
from marin_sft.execution.step import ExecutorStep
from marin_sft.nearest import nearest
from marin_sft.recipes.conversion import Arguments
from marin_sft.recipes.sources import default_download
from marin_sft.steps import transform


@dataclass(frozen=True, kw_only=True)
class InstructionDatasetConfig:
    """How to download a dataset and read its rows.

    hf_dataset_id: its id on the Hub.
    revision: a commit, tag or branch of the repository.
    adapter: how its rows are read.
    metadata_columns: columns to keep in addition to the dialogue.
    name: the name of the dataset in paths, if it is not the whole repository.
    data_dir: use only this folder of the repository, as in `datasets.load_dataset`.
    subsets: configurations to take. Empty: the default one.
    splits: splits to take. Empty: all.
    max_dropped: the share of unusable rows above which the transform step fails.
    """

    hf_dataset_id: str
    revision: str
    adapter: Adapter = FormatAdapter()
    metadata_columns: Sequence[str] = ()
    name: str | None = None
    data_dir: str | None = None
    subsets: Sequence[str] = ()
    splits: Sequence[str] = ("train",)
    max_dropped: float = 0.05


ConfigT = TypeVar("ConfigT", bound=InstructionDatasetConfig)


def multi_turn_adapter(**options: Any) -> TransformAdapter:
    """One column with a list of messages. `options`: fields of `TransformAdapter`."""
    return TransformAdapter(dataset_format=InputDatasetFormat.SINGLE_COLUMN_MULTI_TURN, **options)


def instruction_response_adapter(**options: Any) -> TransformAdapter:
    """A column with a question and one with its answer. `options`: fields of `TransformAdapter`."""
    return TransformAdapter(dataset_format=InputDatasetFormat.INSTRUCTION_RESPONSE, **options)


def instruct_column_response_adapter(**options: Any) -> TransformAdapter:
    """A column with a question and one with a list of answers. `options`: fields of `TransformAdapter`."""
    return TransformAdapter(dataset_format=InputDatasetFormat.INSTRUCT_COLUMN_RESPONSE, **options)


def instruct_msg_response_adapter(**options: Any) -> TransformAdapter:
    """A column with a list of one message and one with the answer. `options`: fields of `TransformAdapter`."""
    return TransformAdapter(dataset_format=InputDatasetFormat.INSTRUCT_MSG_RESPONSE, **options)


def reasoning_to_chat_kwargs(row: dict[str, Any]) -> dict[str, Any]:
    """The template's `enable_thinking`, from a column `reasoning` that says "on" or "off"."""
    switches = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
    switch = switches.get(str(row.get("reasoning")).strip().lower())
    return {} if switch is None else {"chat_template_kwargs": {"enable_thinking": switch}}


_SHAREGPT = {"conversation_column": "conversations", "role_key": "from", "content_key": "value"}
_DOLPHIN_COLUMNS = ("score", "refusal", "compliance_rating", "overall_quality")
_GENERAL_THOUGHT_COLUMNS = (
    "question_id",
    "question_url",
    "reference_answer",
    "model_name",
    "question_source",
    "task",
)

_DATASETS = (
    InstructionDatasetConfig(
        hf_dataset_id="HuggingFaceH4/no_robots",
        revision="e6f9a4a",
        adapter=multi_turn_adapter(),
        metadata_columns=("category", "prompt_id"),
    ),
    InstructionDatasetConfig(
        hf_dataset_id="HuggingFaceTB/smoltalk",
        revision="2c849df",
        adapter=multi_turn_adapter(),
        metadata_columns=("source",),
        subsets=("all",),
    ),
    InstructionDatasetConfig(
        hf_dataset_id="PrimeIntellect/verifiable-math-problems",
        revision="2ad7c92",
        adapter=instruction_response_adapter(instruction_column="prompt", response_column="gold_standard_solution"),
        metadata_columns=("source", "task_type", "problem_id"),
    ),
    InstructionDatasetConfig(
        hf_dataset_id="TIGER-Lab/AceCode-89K",
        revision="13216309a9f6cb40b60cb1a9750071efeac414ad",
        # Each question has several programs: take the one that passes most tests.
        adapter=instruction_response_adapter(
            instruction_column="question",
            response_column="inferences",
            content_key="completion",
            filter_on_key="pass_rate",
        ),
        metadata_columns=("id", "source"),
    ),
    # Not pinned to a commit yet.
    InstructionDatasetConfig(
        hf_dataset_id="allenai/WildChat",
        revision="main",
        adapter=multi_turn_adapter(conversation_column="conversation", replacements={}),
        metadata_columns=("conversation_id", "model", "timestamp", "language", "toxic", "redacted"),
    ),
    InstructionDatasetConfig(
        hf_dataset_id="allenai/tulu-3-sft-mixture",
        revision="55e9fd6",
        adapter=multi_turn_adapter(),
        metadata_columns=("id", "source"),
    ),
    InstructionDatasetConfig(
        hf_dataset_id="allenai/tulu-v2-sft-mixture",
        revision="6248b17",
        adapter=multi_turn_adapter(),
        metadata_columns=("dataset", "id"),
    ),
    InstructionDatasetConfig(
        hf_dataset_id="allenai/tulu-v2-sft-mixture-olmo-4096",
        revision="7a7c388",
        adapter=multi_turn_adapter(),
        metadata_columns=("dataset", "id"),
    ),
    InstructionDatasetConfig(
        hf_dataset_id="bespokelabs/Bespoke-Stratos-17k",
        revision="9e9adba",
        adapter=multi_turn_adapter(**_SHAREGPT, system_column="system"),
    ),
    InstructionDatasetConfig(
        name="cognitivecomputations/dolphin-r1-nonreasoning",
        hf_dataset_id="cognitivecomputations/dolphin-r1",
        revision="f6ac651",
        subsets=("nonreasoning",),
        adapter=multi_turn_adapter(),
        metadata_columns=_DOLPHIN_COLUMNS,
    ),
    InstructionDatasetConfig(
        name="cognitivecomputations/dolphin-r1-reasoning",
        hf_dataset_id="cognitivecomputations/dolphin-r1",
        revision="f6ac651",
        subsets=("reasoning-deepseek", "reasoning-flash"),
        adapter=instruct_msg_response_adapter(instruction_column="messages", response_column="answer"),
        # Many questions consist of a system and a user message. As in Marin, those are left out.
        max_dropped=0.5,
    ),
    InstructionDatasetConfig(
        hf_dataset_id="facebook/natural_reasoning",
        revision="99eea5d",
        adapter=instruct_column_response_adapter(
            instruction_column="question", response_column="responses", content_key="response"
        ),
        metadata_columns=("reference_answer",),
    ),
    InstructionDatasetConfig(
        name="GeneralReasoning/GeneralThought-195K-modelanswer",
        hf_dataset_id="GeneralReasoning/GeneralThought-195K",
        revision="64f7cb8",
        adapter=instruction_response_adapter(instruction_column="question", response_column="model_answer"),
        metadata_columns=_GENERAL_THOUGHT_COLUMNS,
    ),
    InstructionDatasetConfig(
        name="GeneralReasoning/GeneralThought-195K-modelreasoning",
        hf_dataset_id="GeneralReasoning/GeneralThought-195K",
        revision="64f7cb8",
        adapter=instruction_response_adapter(instruction_column="question", response_column="model_reasoning"),
        metadata_columns=_GENERAL_THOUGHT_COLUMNS,
    ),
    InstructionDatasetConfig(
        hf_dataset_id="meta-math/MetaMathQA",
        revision="aa4f34d",
        adapter=instruction_response_adapter(instruction_column="query", response_column="response"),
        metadata_columns=("type",),
    ),
    InstructionDatasetConfig(
        hf_dataset_id="open-r1/OpenThoughts-114k-math",
        revision="2db609d",
        adapter=multi_turn_adapter(),
        metadata_columns=("system", "source", "generated_token_count", "correct"),
    ),
    InstructionDatasetConfig(
        hf_dataset_id="openbmb/UltraInteract_sft",
        revision="2b102e4",
        adapter=instruction_response_adapter(instruction_column="instruction", response_column="response"),
        metadata_columns=("task", "dataset"),
    ),
    InstructionDatasetConfig(
        hf_dataset_id="sherryy/tulu-3-sft-personas-instruction-following-expanded",
        revision="79ab2c4",
        adapter=multi_turn_adapter(),
        metadata_columns=("dataset", "id"),
    ),
    InstructionDatasetConfig(
        hf_dataset_id="teknium/OpenHermes-2.5",
        revision="b820378",
        adapter=multi_turn_adapter(**_SHAREGPT, user_value="human", assistant_value="gpt"),
        metadata_columns=("id", "category", "source"),
    ),
    InstructionDatasetConfig(
        hf_dataset_id="trl-lib/Capybara",
        revision="e235e846458bff3398a88aed812347f7f0756520",
        adapter=multi_turn_adapter(replacements={}),
        metadata_columns=("source", "num_turns"),
    ),
    InstructionDatasetConfig(hf_dataset_id="yahma/alpaca-cleaned", revision="12567cabf869d7c92e573c7c783905fc160e9639"),
    *(
        InstructionDatasetConfig(
            name=f"HuggingFaceTB/smoltalk2/{split}",
            hf_dataset_id="HuggingFaceTB/smoltalk2",
            revision="fc6cc21",
            subsets=("SFT",),
            splits=(split,),
            adapter=multi_turn_adapter(),
        )
        for split in (
            "LongAlign_64k_Qwen3_32B_yarn_131k_think",
            "LongAlign_64k_context_lang_annotated_lang_6_no_think",
            "Mixture_of_Thoughts_science_no_think",
            "OpenHermes_2.5_no_think",
            "OpenThoughts3_1.2M_no_think_no_think",
            "OpenThoughts3_1.2M_think",
            "aya_dataset_Qwen3_32B_think",
            "hermes_function_calling_v1_no_think",
            "multi_turn_reasoning_if_think",
            "s1k_1.1_think",
            "smolagents_toolcalling_traces_think",
            "smoltalk_everyday_convs_reasoning_Qwen3_32B_think",
            "smoltalk_multilingual8_Qwen3_32B_think",
            "smoltalk_multilingual_8languages_lang_5_no_think",
            "smoltalk_smollm3_everyday_conversations_no_think",
            "smoltalk_smollm3_explore_instruct_rewriting_no_think",
            "smoltalk_smollm3_smol_magpie_ultra_no_think",
            "smoltalk_smollm3_smol_rewrite_no_think",
            "smoltalk_smollm3_smol_summarize_no_think",
            "smoltalk_smollm3_systemchats_30k_no_think",
            "smoltalk_systemchats_Qwen3_32B_think",
            "table_gpt_Qwen3_32B_think",
            "table_gpt_no_think",
            "tulu_3_sft_personas_instruction_following_no_think",
            "xlam_traces_no_think",
        )
    ),
    *(
        InstructionDatasetConfig(
            name=f"nvidia/Nemotron-Post-Training-Dataset-v2/{split}",
            hf_dataset_id="nvidia/Nemotron-Post-Training-Dataset-v2",
            revision="5c89e01",
            splits=(split,),
            adapter=multi_turn_adapter(extra_metadata_fn=reasoning_to_chat_kwargs),
            metadata_columns=("category", "generator", "license"),
        )
        for split in (
            "chat",
            "code",
            "math",
            "multilingual_de",
            "multilingual_es",
            "multilingual_fr",
            "multilingual_it",
            "multilingual_ja",
            "stem",
        )
    ),
)

INSTRUCTION_DATASET_NAME_TO_CONFIG = {dataset.name or dataset.hf_dataset_id: dataset for dataset in _DATASETS}


def get_instruction_dataset(
    hf_dataset_id: str, splits: Sequence[str] | None = None, **options: Any
) -> ExecutorStep[TransformConfig]:
    """`documents/{org--name}`: the dialogues of a dataset as rows of messages, in `[{subset}/]{split}/*.jsonl.gz`.

    `hf_dataset_id`: a registered name, or the hub id of another dataset with its `revision`. `options`: fields of
    `InstructionDatasetConfig` that override the registered ones.

    Raises:
        ConfigError: an unknown dataset without a `revision`.
    """
    config = dataset_config(
        INSTRUCTION_DATASET_NAME_TO_CONFIG, InstructionDatasetConfig, hf_dataset_id, splits, options
    )
    return transform_dataset_step(config)


def dataset_config(
    registry: Mapping[str, ConfigT],
    kind: type[ConfigT],
    name: str,
    splits: Sequence[str] | None,
    options: Arguments,
) -> ConfigT:
    """The entry of `registry` for `name`, or a new one, with `splits` and `options` as overrides.

    Raises:
        ConfigError: an unknown name without a `revision`, or options that are not fields of `kind`.
    """
    given = {**options, **({} if splits is None else {"splits": tuple(splits)})}
    unknown = sorted(given.keys() - {field.name for field in dataclasses.fields(kind)})
    if unknown:
        raise ConfigError(f"dataset {name!r}: unknown options {unknown}; expected fields of {kind.__name__}")
    if name in registry:
        return dataclasses.replace(registry[name], **given)
    if "revision" in given:
        return kind(**{"hf_dataset_id": name, **given})
    near = nearest(name, registry, most=3, cutoff=0.4)
    raise ConfigError(
        f"unknown dataset {name!r}; nearest: {', '.join(near) or 'none'}. For a dataset that is not registered, pass "
        "revision= (one of its commits) and, if its columns have unusual names, adapter="
    )


def transform_dataset_step(config: InstructionDatasetConfig) -> ExecutorStep[TransformConfig]:
    """The step `documents/{org--name}`, made from the download `raw/{org--name}`."""
    downloaded = download_dataset_step(config)
    return transform(
        directory_friendly_name(config.name or config.hf_dataset_id),
        downloaded / config.data_dir if config.data_dir else downloaded,
        source=config.hf_dataset_id,
        adapter=config.adapter,
        subsets=config.subsets,
        splits=config.splits,
        metadata_columns=config.metadata_columns,
        max_dropped=config.max_dropped,
    )


def download_dataset_step(config: InstructionDatasetConfig) -> ExecutorStep[DownloadConfig]:
    name = directory_friendly_name(config.hf_dataset_id)
    return default_download(f"raw/{name}", hf_dataset_id=config.hf_dataset_id, revision=config.revision)


def directory_friendly_name(hf_dataset_id: str) -> str:
    """ "org/name.v1" -> "org--name-v1"."""
    return hf_dataset_id.replace("/", "--").replace(".", "-").replace("#", "-")
