"""The configs of exports: what is needed besides the trained weights to serve a model as it was trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from marin_sft.execution.step import StepConfig, execution_only, omitted_when, this_output_path
from marin_sft.export.card_config import CardConfig
from marin_sft.training.checks import check_types, require, unresolved

MAX_SHARD_BYTES = 5 * 10**9  # as in transformers 4
DTYPES = ("float32", "bfloat16", "float16")
FORMATS = (("hf",), ("hf", "gguf"))
GGUF_TYPES = ("f32", "f16", "bf16", "q8_0")
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # as `precision` of training has them


@dataclass(frozen=True, kw_only=True)
class HfExport:
    """A Hugging Face directory for trained weights."""

    base_model: str
    """The directory that training started from."""

    tokenizer: str | None = None
    """The directory of the tokenizer used in training. None: the base model's."""

    chat_template: str | None = None
    """The chat template used in training. None: the tokenizer's own."""

    chat_template_kwargs: dict[str, object] = field(default_factory=dict)
    """The template's arguments in training, in addition to the messages. They become its defaults."""

    dtype: str | None = None
    """The type of the exported weights. None: the base model's."""

    max_shard_bytes: int = MAX_SHARD_BYTES
    """The largest size of a weight file."""

    generation_eos_token_ids: tuple[int, ...] | None = None
    """The ids that end an answer. None: those in the base model's generation_config.json, the tokenizer's EOS, and the
    token with which the chat template ends an assistant's turn."""

    formats: tuple[str, ...] = omitted_when(("hf",), default=("hf",))
    """"hf", and also "gguf": a file for llama.cpp with a Modelfile for Ollama, made of the Hugging Face files next to
    it: see `marin_sft.export.gguf.file`."""

    gguf_type: str | None = omitted_when(None, default=None)
    """The type of the matrices in the GGUF file: "f32", "f16", "bf16" or "q8_0". None: that of the weights, so that
    nothing is lost."""

    card: CardConfig = execution_only(default=CardConfig())
    """The model card. It is not part of the identity: the steps that it mentions are."""

    def __post_init__(self) -> None:
        if unresolved(self):
            return
        check_types(self)
        meant = f"; {self.dtype} is {_SHORT[self.dtype]!r}" if self.dtype in _SHORT else ""
        require(self, "dtype", self.dtype in (None, *DTYPES), f"one of {', '.join(DTYPES)}, or None{meant}")
        expected = " or ".join(map(str, FORMATS))
        require(self, "formats", self.formats in FORMATS, f"{expected}; the GGUF file is made of the files of 'hf'")
        require(self, "gguf_type", self.gguf_type in (None, *GGUF_TYPES), f"one of {', '.join(GGUF_TYPES)}, or None")
        require(self, "gguf_type", self.gguf_type is None or "gguf" in self.formats, "None without 'gguf' in formats")
        require(self, "max_shard_bytes", self.max_shard_bytes >= 1, "at least 1")
        require(self, "generation_eos_token_ids", self.generation_eos_token_ids != (), "at least one id, or None")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(
    HfExport,
    StepConfig,
    kind="export_hf",
    version=4,
    body="marin_sft.export.hf:export_hf",
    one_host=True,
    fresh_process=True,
    torch=False,
):
    """An export as a step of its own."""

    checkpoint: str
    """Output of a training step."""

    output_path: str = this_output_path()
