"""What the files of an export say of the same thing, and where they disagree.

Nobody changes all of them: who edits config.json or a template by hand leaves the other files as they were exported.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from marin_sft.export.gguf.metadata import context_length
from marin_sft.export.gguf.reading import StoredGguf, gguf_files, read_gguf
from marin_sft.training.models.model_directory import ModelDirectory
from marin_sft.training.models.rope_scaling import longest_of

JINJA, TOKENIZER, CONFIG = "chat_template.jinja", "tokenizer_config.json", "config.json"
_UNLIMITED = 10**9  # what tokenizers write that have no limit is larger


@dataclass(frozen=True)
class Files:
    """templates: the default chat template by file; in the first one, transformers and vLLM find theirs.

    lengths: of the context by file, that of config.json first. A tokenizer's is the most that it lets through.
    llama_cpp: the length that a GGUF file should name: see `gguf.metadata.context_length`.
    positions: `max_position_embeddings`, which servers take for the context length.
    """

    templates: Mapping[str, str]
    lengths: Mapping[str, int]
    llama_cpp: int
    positions: int | None

    @property
    def odd_template(self) -> str | None:
        """The file whose template is not that of the others: see `odd_one`."""
        return odd_one(self.templates)

    def length_difference(self) -> str | None:
        """Which files name different lengths of the context."""
        wrong = [name for name, length in self.lengths.items() if self._disagrees(name, length)]
        if not wrong:
            return None
        # A tokenizer that lets more through agrees with anything up to that.
        voices = {name: length for name, length in self.lengths.items() if name != TOKENIZER or name in wrong}
        odd = odd_one(voices)
        do = f"correct that of {odd}, which is not as the others" if odd else "correct the wrong one"
        said = ", ".join(f"{length} in {_field(name)}" for name, length in voices.items())
        return f"the files disagree: {said}; {do}, or export again"

    @property
    def is_length_confirmed(self) -> bool:
        """Whether a file other than config.json names the length of the context."""
        return len(self.lengths) > 1

    def why_other(self, ours: int, theirs: int) -> str:
        """Why a server takes `theirs` tokens, and what to do; empty if no file says so."""
        if theirs == self.positions:
            return f"it takes max_position_embeddings of config.json: set that to {ours} there"
        named = [name for name, length in self.lengths.items() if length == theirs]
        if TOKENIZER in named:
            return f"it takes {_field(TOKENIZER)}, since that is less: correct the one that is wrong"
        if not named or theirs == self.llama_cpp:  # a window, beyond which llama.cpp computes something else
            return ""
        return f"so says {named[0]}: write that file again with marin-sft gguf"

    def _disagrees(self, name: str, length: int) -> bool:
        if name == CONFIG:
            return False
        return length < self.lengths[CONFIG] if name == TOKENIZER else length != self.llama_cpp


def files_of(local: str, model: ModelDirectory, is_trained_with: bool) -> Files:
    """Those of the export in a local directory; `model` is the same one.

    is_trained_with: whether the tokenizer of training is known. Then its limit counts as unchanged.

    Raises:
        ExportError: a GGUF file is damaged.
    """
    stored = [read_gguf(os.path.join(local, name)) for name in gguf_files(local)]
    tokenizer = model.json(TOKENIZER) or {}
    limit = tokenizer.get("model_max_length")
    longest = longest_of(model.config)
    lengths = {} if longest is None else {CONFIG: longest}
    if isinstance(limit, int) and limit < _UNLIMITED and not is_trained_with:
        lengths[TOKENIZER] = limit
    lengths |= {file.name: file.context_length for file in stored if file.context_length is not None}
    return Files(
        templates=_templates(model, tokenizer, stored),
        lengths=lengths if longest is not None else {},
        llama_cpp=context_length(model.config),
        positions=model.config.get("max_position_embeddings"),
    )


def odd_one(said: Mapping[str, Hashable]) -> str | None:
    """The one that says something else than all others, which agree. None: there is none, or there are only two."""
    (most, count), *_ = Counter(said.values()).most_common(1)
    odd = [name for name, value in said.items() if value != most]
    return odd[0] if len(odd) == 1 and count > 1 else None


def _templates(model: ModelDirectory, tokenizer: Mapping[str, object], stored: list[StoredGguf]) -> dict[str, str]:
    found: dict[str, str] = {}
    if (text := model.text(JINJA)) is not None:
        found[JINJA] = text
    template = tokenizer.get("chat_template")
    if isinstance(template, list):
        template = {named["name"]: named["template"] for named in template}.get("default")
    if isinstance(template, str):
        found[TOKENIZER] = template
    return found | {file.name: file.chat_template for file in stored if file.chat_template is not None}


def _field(file: str) -> str:
    fields = {CONFIG: "config.json", TOKENIZER: "tokenizer_config.json (model_max_length)"}
    return fields.get(file, file)
