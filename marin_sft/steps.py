"""The steps of post-training: each function here makes one `ExecutorStep`.

tokens = {"chat": tokenize("chat", documents / "train/*.jsonl.gz", tokenizer=tokenizer)}
blend = mixture("blend", tokens, weights={"chat": 1}, seq_len=4096)
model = sft("mine", mixture=blend, base_model=base, learning_rate=1e-5, train_batch_size=64, num_train_epochs=1)
exported = export("mine", model)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marin_sft.arguments import named_arguments
from marin_sft.data.adapters import Adapter, FormatAdapter
from marin_sft.data.data_configs import (
    OTHER_NAMES,
    LmDataConfig,
    lm_mixture_data_config,
    mixture_for_evaluation,
    weights_of,
)
from marin_sft.data.formats import ChatLmDatasetFormat, LmDatasetFormat
from marin_sft.data.lint.step import lint as lint
from marin_sft.data.step_configs import (
    TOKENIZER_FILES,
    DownloadConfig,
    DownloadUrlsConfig,
    MixtureConfig,
    TokenizeConfig,
    TrainTokenizerConfig,
    TransformConfig,
)
from marin_sft.data.tokenizer import check_directory, stored_tokens
from marin_sft.errors import ConfigError
from marin_sft.evaluation.exports import evaluate_exports as evaluate_exports
from marin_sft.evaluation.step_configs import GenerateConfig, LmEvalConfig, PerplexityConfig, ServedConfig
from marin_sft.execution.resources import CpuConfig, Resources
from marin_sft.execution.step import ExecutorStep
from marin_sft.export.from_training import Cadence, check_formats, export_fields, served_fields, with_exports
from marin_sft.export.hf_config import MAX_SHARD_BYTES, ExportConfig
from marin_sft.inputs import Source, check_step, last_part, path_of, paths_of
from marin_sft.sweeps.searches import Between as Between
from marin_sft.sweeps.searches import Halving as Halving
from marin_sft.sweeps.searches import OptunaSearch as OptunaSearch
from marin_sft.sweeps.searches import RandomSearch as RandomSearch
from marin_sft.sweeps.sweep import sweep as sweep
from marin_sft.training.chosen_reference import chosen_reference
from marin_sft.training.dpo_config import DPOConfig, ReferenceConfig
from marin_sft.training.models import LlamaConfig
from marin_sft.training.models.new_tokens_config import AddTokensConfig, check_new
from marin_sft.training.models.random_model_config import RandomModelConfig
from marin_sft.training.sft_config import SFTConfig
from marin_sft.training.step_inputs import adapter_found, check_inputs, check_model
from marin_sft.training.train_config import TrainConfig


@named_arguments()
def download(
    name: str,
    *,
    hf_dataset_id: str | None = None,
    hf_model_id: str | None = None,
    hf_tokenizer_id: str | None = None,
    revision: str = "main",
    allow_patterns: Sequence[str] = (),
    ignore_patterns: Sequence[str] = (),
) -> ExecutorStep[DownloadConfig]:
    """Files of a repository on the Hugging Face Hub, by one of the three ids.

    The step is `raw/{name}` for a dataset, `models/{name}` for a model with its tokenizer, and `tokenizers/{name}` for
    the tokenizer files alone.

    allow_patterns, ignore_patterns: globs over paths. Without `allow_patterns` all files are downloaded, or all
        tokenizer files.
    """
    ids = {"raw": hf_dataset_id, "models": hf_model_id, "tokenizers": hf_tokenizer_id}
    given = {folder: id for folder, id in ids.items() if id is not None}
    if len(given) != 1:
        raise ConfigError(
            f"download {name!r}: got {len(given)} ids; expected one of hf_dataset_id, hf_model_id, hf_tokenizer_id"
        )
    ((folder, id),) = given.items()
    config = DownloadConfig(
        id=id,
        kind="dataset" if folder == "raw" else "model",
        revision=revision,
        allow_patterns=tuple(allow_patterns) or (TOKENIZER_FILES if folder == "tokenizers" else ()),
        ignore_patterns=tuple(ignore_patterns),
    )
    return ExecutorStep(f"{folder}/{name}", config=config, description=f"{id} at {revision}")


@named_arguments()
def download_urls(
    name: str, urls: Sequence[str], *, sha256: Mapping[str, str] | None = None
) -> ExecutorStep[DownloadUrlsConfig]:
    """`raw/{name}`: files from https://, gs://, s3:// and other URLs.

    sha256: the expected digests by URL.

    The signature of a URL is not stored and not part of the identity: another signature reruns nothing.
    """
    return ExecutorStep(f"raw/{name}", config=DownloadUrlsConfig(tuple(urls), dict(sha256 or {})))


@named_arguments()
def transform(
    name: str,
    dataset: Source,
    *,
    source: str,
    adapter: Adapter | None = None,
    subsets: Sequence[str] = (),
    splits: Sequence[str] = ("train",),
    metadata_columns: Sequence[str] = (),
    max_dropped: float = 0.05,
) -> ExecutorStep[TransformConfig]:
    """`documents/{name}`: the raw rows of a downloaded dataset in canonical form.

    source: the name of the dataset in the rows. The others: see `TransformConfig`.
    """
    config = TransformConfig(
        input_path=path_of(dataset),
        source=source,
        adapter=adapter or FormatAdapter(),
        subsets=tuple(subsets),
        splits=tuple(splits),
        metadata_columns=tuple(metadata_columns),
        max_dropped=max_dropped,
    )
    return ExecutorStep(f"documents/{name}", config=config)


@named_arguments()
def train_tokenizer(
    name: str,
    documents: Sequence[Source],
    *,
    vocab_size: int,
    format: ChatLmDatasetFormat | None = None,
    max_dropped: float = 0.05,
) -> ExecutorStep[TrainTokenizerConfig]:
    """`tokenizers/{name}`: a byte-level BPE tokenizer with a ChatML template, trained on chat rows.

    max_dropped: see `TrainTokenizerConfig`.
    """
    config = TrainTokenizerConfig(paths_of(documents), vocab_size, format or ChatLmDatasetFormat(), max_dropped)
    return ExecutorStep(f"tokenizers/{name}", config=config)


@named_arguments()
def random_model(name: str, model: LlamaConfig, *, tokenizer: Source, seed: int = 0) -> ExecutorStep[RandomModelConfig]:
    """`models/{name}`: randomly initialised weights as a Hugging Face directory."""
    config = RandomModelConfig(model=model, tokenizer=path_of(tokenizer), seed=seed)
    return ExecutorStep(f"models/{name}", config=config)


@named_arguments()
def add_tokens(
    name: str, model: Source, *, tokens: Sequence[str] = (), special_tokens: Sequence[str] = (), seed: int = 0
) -> ExecutorStep[AddTokensConfig]:
    """`models/{name}`: a model and its tokenizer with new tokens, to tokenize with and to train from.

    tokens, special_tokens: those that are text, like "<tool>", and those that are markup, like "<|im_end|>".
    seed: of their embeddings.

    Raises:
        ConfigError: a model in a local directory already has one of the tokens. Of other models, the step finds out.
    """
    config = AddTokensConfig(
        model=path_of(model), tokens=_tokens(tokens), special_tokens=_tokens(special_tokens), seed=seed
    )
    if isinstance(config.model, Path):
        check_new(str(model), {*config.tokens, *config.special_tokens} & stored_tokens(str(config.model)))
    return ExecutorStep(f"models/{name}", config=config)


@named_arguments()
def tokenize(
    name: str,
    documents: Source | Sequence[Source],
    *,
    tokenizer: Source,
    format: LmDatasetFormat | None = None,
    validation: Source | Sequence[Source] = (),
    max_dropped: float = 0.05,
    resources: Resources | None = None,
) -> ExecutorStep[TokenizeConfig]:
    """`tokenized/{name}`: a token cache with masks from rows of chat messages. max_dropped: see `TokenizeConfig`."""
    if isinstance(tokenizer, str | Path) and os.path.isdir(tokenizer):
        check_directory(str(tokenizer))
    config = TokenizeConfig(
        train_paths=paths_of(documents),
        tokenizer=path_of(tokenizer),
        format=format or ChatLmDatasetFormat(),
        validation_paths=paths_of(validation),
        max_dropped=max_dropped,
    )
    return ExecutorStep(f"tokenized/{name}", config=config, resources=resources or CpuConfig())


@named_arguments(options=lm_mixture_data_config, other_names=OTHER_NAMES)
def mixture(
    name: str,
    data: LmDataConfig | Mapping[str, ExecutorStep[TokenizeConfig]],
    *,
    seq_len: int,
    weights: Mapping[str, float] | None = None,
    max_prompt_length: int | None = None,
    max_completion_length: int | None = None,
    **options: Any,
) -> ExecutorStep[MixtureConfig]:
    """`mixtures/{name}`: token caches packed into rows of `seq_len` tokens, drawn by weight; or preference pairs.

    data: the result of `lm_mixture_data_config` or a similar function; or tokenization steps by name.
    weights, options: arguments of `lm_mixture_data_config`, if `data` is tokenization steps.
    seq_len: for pairs, the maximal length of a prompt and a completion together.
    max_prompt_length, max_completion_length: limits of each, see `pair_limits`.
    """
    if not isinstance(data, LmDataConfig | Mapping):
        got = f"the step '{data.name}'" if isinstance(data, ExecutorStep) else repr(data)
        raise ConfigError(f"mixture '{name}': expected tokenization steps by name, like {{'chat': tokens}}; got {got}")
    if not isinstance(data, LmDataConfig):
        data = lm_mixture_data_config(data, weights_of(name, data) if weights is None else weights, **options)
    elif weights is not None or options:
        given = sorted([*options, *(["weights"] if weights is not None else [])])
        raise ConfigError(
            f"mixture '{name}': got {given} and an LmDataConfig, which has these settings; set them there"
        )
    config = MixtureConfig(
        data, seq_len, max_prompt_length=max_prompt_length, max_completion_length=max_completion_length
    )
    return ExecutorStep(f"mixtures/{name}", config=config)


@named_arguments()
def sft(
    name: str,
    *,
    mixture: ExecutorStep[MixtureConfig],
    base_model: Source,
    resources: Resources | None = None,
    seed: int = 0,
    steps_per_hf_export: int = -1,
    hf_save_dtype: str | None = None,
    hf_generation_eos_token_ids: Sequence[int] | None = None,
    hf_formats: Sequence[str] = ("hf",),
    hf_gguf_type: str | None = None,
    **training: Any,
) -> ExecutorStep[SFTConfig]:
    """`checkpoints/{name}_seed{seed}`: the base model trained on a mixture.

    steps_per_hf_export: also export to `hf/step-N` in the output, after every so many steps and the last; -1: never.
    hf_save_dtype, hf_generation_eos_token_ids, hf_formats, hf_gguf_type: for these exports, see `HfExport`.
    training: fields of `SFTConfig`.
    """
    check_inputs(f"sft '{name}'", mixture, base_model, resources, training, of_rows=True)
    config = with_exports(
        SFTConfig,
        Cadence(name, steps_per_hf_export, hf_save_dtype, hf_generation_eos_token_ids, hf_formats, hf_gguf_type),
        mixture=path_of(mixture),
        tokenized=mixture.config.data.tokenized,
        base_model=path_of(base_model),
        seed=seed,
        **adapter_found(training),
    )
    check_model(base_model, mixture.config.seq_len, config.rope_scaling)
    return ExecutorStep(f"checkpoints/{name}_seed{seed}", config=config, resources=resources or CpuConfig())


@named_arguments()
def reference_logprobs(
    mixture: ExecutorStep[MixtureConfig], model: Source, *, resources: Resources | None = None, **options: Any
) -> ExecutorStep[ReferenceConfig]:
    """`reference_logprobs/{mixture}_{model}`: log-probabilities of a mixture's pairs under a fixed model.

    Its name does not depend on a training: all trainings with the same reference share it.

    options: more fields of `ReferenceConfig`.
    """
    check_step("reference_logprobs: mixture", mixture, MixtureConfig, "mixture()")
    config = ReferenceConfig(
        mixture=path_of(mixture), tokenized=mixture.config.data.tokenized, model=path_of(model), **options
    )
    name = f"reference_logprobs/{last_part(mixture)}_{last_part(model)}"
    return ExecutorStep(name, config=config, resources=resources or CpuConfig())


@named_arguments()
def dpo(
    name: str,
    *,
    mixture: ExecutorStep[MixtureConfig],
    base_model: Source,
    reference: Source | None = None,
    resources: Resources | None = None,
    seed: int = 0,
    steps_per_hf_export: int = -1,
    hf_save_dtype: str | None = None,
    hf_generation_eos_token_ids: Sequence[int] | None = None,
    hf_formats: Sequence[str] = ("hf",),
    hf_gguf_type: str | None = None,
    **training: Any,
) -> ExecutorStep[DPOConfig]:
    """`checkpoints/{name}_seed{seed}`: the base model trained on a mixture of preference pairs.

    reference: the model to compare with; None: the base model, with the adapter that `lora` starts from. A step of
        `reference_logprobs`, created here, computes its log-probabilities once. With `ref_model_sync_steps`, the model
        is kept in memory next to the policy instead.
    training: fields of `DPOConfig`. The others: see `sft`.
    """
    check_inputs(f"dpo '{name}'", mixture, base_model, resources, training, of_rows=False)
    training = adapter_found(training)
    against = chosen_reference(name, base_model, reference, training)
    fields: dict[str, object] = {"starts_at_reference": against.starts_there}
    if against.in_memory:
        fields["reference_model"] = path_of(against.model)
    elif against.precomputed:
        options = against.options
        fields["reference_logprobs"] = reference_logprobs(mixture, against.model, resources=resources, **options)
    config = with_exports(
        DPOConfig,
        Cadence(name, steps_per_hf_export, hf_save_dtype, hf_generation_eos_token_ids, hf_formats, hf_gguf_type),
        mixture=path_of(mixture),
        tokenized=mixture.config.data.tokenized,
        base_model=path_of(base_model),
        seed=seed,
        **{**fields, **training},
    )
    check_model(base_model, rope_scaling=config.rope_scaling)
    check_model(reference)
    return ExecutorStep(f"checkpoints/{name}_seed{seed}", config=config, resources=resources or CpuConfig())


@named_arguments()
def export(
    name: str,
    trained: ExecutorStep[SFTConfig] | ExecutorStep[DPOConfig],
    *,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    generation_eos_token_ids: Sequence[int] | None = None,
    formats: Sequence[str] = ("hf",),
    gguf_type: str | None = None,
) -> ExecutorStep[ExportConfig]:
    """`hf/{name}`: trained weights as a Hugging Face directory, with the tokenizer and chat template of the training.

    dtype: of the weights; None: that of the base model.
    formats: ("hf", "gguf") adds a file for llama.cpp, and a Modelfile for Ollama.
    max_shard_bytes, generation_eos_token_ids, gguf_type: see `HfExport`.
    """
    check_step(f"export '{name}': trained", trained, TrainConfig, "sft() or dpo()")
    values = export_fields(name, trained.name, trained.config)
    ends = _ids(generation_eos_token_ids)
    config = ExportConfig(
        checkpoint=path_of(trained),
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
        generation_eos_token_ids=ends,
        formats=tuple(formats),
        gguf_type=gguf_type,
        **values,
    )
    check_formats(config, trained.config)
    return ExecutorStep(f"hf/{name}", config=config)


@named_arguments()
def evaluate(
    name: str,
    model: Source,
    prompts: Mapping[str, Source],
    *,
    max_new_tokens: int,
    resources: Resources | None = None,
    **generation: Any,
) -> ExecutorStep[GenerateConfig]:
    """`evaluation/{name}`: answers to sets of chat prompts, and how many equal their references.

    generation: more fields of `GenerateConfig`. By default decoding is greedy.
    """
    config = GenerateConfig(
        model=path_of(model),
        prompts={name: path_of(source) for name, source in prompts.items()},
        max_new_tokens=max_new_tokens,
        **generation,
    )
    return ExecutorStep(f"evaluation/{name}", config=config, resources=resources or CpuConfig())


@named_arguments()
def perplexity(
    name: str,
    model: Source,
    data: ExecutorStep[MixtureConfig] | Mapping[str, ExecutorStep[TokenizeConfig]],
    *,
    seq_len: int | None = None,
    resources: Resources | None = None,
    **options: Any,
) -> ExecutorStep[PerplexityConfig]:
    """`perplexity/{name}`: NLL per trained token of the validation rows of `data`, and of each component.

    data: a mixture step; or tokenization steps by name, whose validation splits, or all rows of those without one, are
        packed to `seq_len`.
    options: more fields of `PerplexityConfig`.
    """
    if isinstance(data, ExecutorStep) == (seq_len is not None):
        raise ConfigError(
            f"perplexity '{name}': got seq_len={seq_len}; expected the length of rows with tokenization steps, and "
            "None with a mixture step, which has its own"
        )
    if not isinstance(data, ExecutorStep):
        assert seq_len is not None
        data = mixture(f"{name}_evaluation", mixture_for_evaluation(data), seq_len=seq_len)
    check_step(f"perplexity '{name}': data", data, MixtureConfig, "mixture()")
    config = PerplexityConfig(
        model=path_of(model), mixture=path_of(data), tokenized=data.config.data.tokenized, **options
    )
    return ExecutorStep(f"perplexity/{name}", config=config, resources=resources or CpuConfig())


@named_arguments()
def lm_eval(
    name: str, model: Source, tasks: Sequence[str], *, resources: Resources | None = None, **options: Any
) -> ExecutorStep[LmEvalConfig]:
    """`lm_eval/{name}`: tasks of the LM Evaluation Harness (the extra `eval`) on an export.

    options: more fields of `LmEvalConfig`.
    """
    chosen = tasks if isinstance(tasks, str) else tuple(tasks)
    if options.get("task_files") is not None:
        options["task_files"] = path_of(options["task_files"])
    config = LmEvalConfig(model=path_of(model), tasks=chosen, **options)  # type: ignore[arg-type]  # refused there
    return ExecutorStep(f"lm_eval/{name}", config=config, resources=resources or CpuConfig())


@named_arguments()
def served(
    export: Source,
    *,
    with_: str = "vllm",
    prompts: Mapping[str, Source] | None = None,
    base: Source | None = None,
    name: str | None = None,
    resources: Resources | None = None,
    **options: Any,
) -> ExecutorStep[ServedConfig]:
    """`served/{name}`: an export in the server "vllm", "llama.cpp" or "transformers", compared with our own generation.
    The step fails if the server does not serve what was trained.

    export: a step of `export()`, or the place `trained / "adapter"` of a training with LoRA, where the training says
        which tokenizer and template are right; or a directory.
    prompts: sets of held-out rows, with or without answers. None: a few general questions.
    base: for an adapter in a directory: its base model. None: what the adapter says.
    name: None: that of the export and the server.
    options: more fields of `ServedConfig`.
    """
    if base is not None:
        options = {"base": path_of(base), **options}
    config = ServedConfig(
        model=path_of(export),
        engine=with_,
        prompts={name: path_of(source) for name, source in (prompts or {}).items()},
        **{**served_fields(export), **options},
    )
    name = name or f"{last_part(export)}_{with_.replace('.', '')}"
    return ExecutorStep(f"served/{name}", config=config, resources=resources or CpuConfig())


def _tokens(tokens: Sequence[str]) -> tuple[str, ...]:
    return tokens if isinstance(tokens, str) else tuple(tokens)  # type: ignore[return-value]  # refused by the config


def _ids(ids: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if ids is None else tuple(ids)
