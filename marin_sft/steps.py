"""Step functions with their configs wired up: each function here makes one `ExecutorStep`.

    tokens = tokenize("opposites", documents / "train/*.jsonl.gz", tokenizer=tokenizer)
    blend = mixture("blend", {"opposites": tokens, "reversals": others}, weights={"opposites": 2, "reversals": 1}, seq_len=4096)
    trained = sft("my_model", mixture=blend, base_model=base, learning_rate=1e-5, train_batch_size=64, num_train_epochs=1)
    exported = export("my_model", trained)

The only module that sees both the engine and the packages that do the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marin_sft.data.formats import ChatLmDatasetFormat
from marin_sft.data.mixture import MixtureConfig
from marin_sft.data.mixture import mixture as run_mixture
from marin_sft.data.tokenize import TokenizeConfig
from marin_sft.data.tokenize import tokenize as run_tokenize
from marin_sft.data.tokenizer import TrainTokenizerConfig
from marin_sft.data.tokenizer import train_tokenizer as run_train_tokenizer
from marin_sft.evaluation.generate import GenerateConfig
from marin_sft.evaluation.generate import generate as run_generate
from marin_sft.execution.resources import CpuConfig, Resources
from marin_sft.execution.step import ExecutorStep, InputName
from marin_sft.export.hf import ExportConfig
from marin_sft.export.hf import export_hf as run_export
from marin_sft.training.models import LlamaConfig
from marin_sft.training.random_model import RandomModelConfig
from marin_sft.training.random_model import random_model as run_random_model
from marin_sft.training.sft import SFTConfig
from marin_sft.training.sft import sft as run_sft

# What a config's path field takes before it is resolved to a string: a step, a place in its output, or a plain path.
Source = ExecutorStep[Any] | InputName | str


def train_tokenizer(
    name: str, documents: Sequence[Source], *, vocab_size: int, format: ChatLmDatasetFormat | None = None
) -> ExecutorStep[TrainTokenizerConfig]:
    """`tokenizers/{name}`: a byte-level BPE tokenizer with a ChatML template, trained on chat rows."""
    config = TrainTokenizerConfig(_paths(documents), vocab_size, format or ChatLmDatasetFormat())
    return ExecutorStep(f"tokenizers/{name}", run_train_tokenizer, config)


def random_model(name: str, model: LlamaConfig, *, tokenizer: Source, seed: int = 0) -> ExecutorStep[RandomModelConfig]:
    """`models/{name}`: randomly initialised weights as a Hugging Face directory."""
    config = RandomModelConfig(model=model, tokenizer=_path(tokenizer), seed=seed)
    return ExecutorStep(f"models/{name}", run_random_model, config)


def tokenize(
    name: str,
    documents: Source | Sequence[Source],
    *,
    tokenizer: Source,
    format: ChatLmDatasetFormat | None = None,
    validation: Source | Sequence[Source] = (),
    resources: Resources | None = None,
) -> ExecutorStep[TokenizeConfig]:
    """`tokenized/{name}`: a token cache with masks from rows of chat messages."""
    config = TokenizeConfig(
        train_paths=_paths(documents),
        tokenizer=_path(tokenizer),
        format=format or ChatLmDatasetFormat(),
        validation_paths=_paths(validation),
    )
    return ExecutorStep(f"tokenized/{name}", run_tokenize, config, resources=resources or CpuConfig())


def mixture(
    name: str,
    tokenized: Mapping[str, ExecutorStep[TokenizeConfig]],
    *,
    weights: Mapping[str, float],
    seq_len: int,
    packing: bool = True,
) -> ExecutorStep[MixtureConfig]:
    """`mixtures/{name}`: token caches packed into rows of `seq_len` tokens, drawn by weight."""
    config = MixtureConfig(
        tokenized={component: _path(step) for component, step in tokenized.items()},
        weights=dict(weights),
        seq_len=seq_len,
        packing=packing,
    )
    return ExecutorStep(f"mixtures/{name}", run_mixture, config)


def sft(
    name: str,
    *,
    mixture: ExecutorStep[MixtureConfig],
    base_model: Source,
    resources: Resources | None = None,
    seed: int = 0,
    **training: Any,
) -> ExecutorStep[SFTConfig]:
    """`checkpoints/{name}_seed{seed}`: the base model trained on a mixture. `training`: fields of `SFTConfig`."""
    config = SFTConfig(
        mixture=_path(mixture),
        tokenized=mixture.config.tokenized,
        base_model=_path(base_model),
        seed=seed,
        **training,
    )
    return ExecutorStep(f"checkpoints/{name}_seed{seed}", run_sft, config, resources=resources or CpuConfig())


def export(name: str, trained: ExecutorStep[SFTConfig], *, dtype: str | None = None) -> ExecutorStep[ExportConfig]:
    """`hf/{name}`: trained weights, tokenizer and chat template as a Hugging Face directory."""
    config = ExportConfig(checkpoint=_path(trained), base_model=trained.config.base_model, dtype=dtype)
    return ExecutorStep(f"hf/{name}", run_export, config)


def evaluate(
    name: str, model: Source, prompts: Source, *, max_new_tokens: int, resources: Resources | None = None
) -> ExecutorStep[GenerateConfig]:
    """`evaluation/{name}`: greedy answers to chat prompts, and how many equal their references."""
    config = GenerateConfig(model=_path(model), prompts=_path(prompts), max_new_tokens=max_new_tokens)
    return ExecutorStep(f"evaluation/{name}", run_generate, config, resources=resources or CpuConfig())


def _path(source: Source) -> Any:
    # Typed Any, not Source: the executor puts a string in its place before the step function sees the config.
    return source


def _paths(sources: Source | Sequence[Source]) -> tuple[Any, ...]:
    return (sources,) if isinstance(sources, ExecutorStep | InputName | str) else tuple(sources)
