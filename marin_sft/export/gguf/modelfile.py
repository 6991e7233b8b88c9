"""The Modelfile with which Ollama serves a GGUF file.

Ollama has no Jinja. Of the chat template in a GGUF file, it uses one of its own that looks like it, if it finds one,
and else none at all. So it gets the text around messages as a Go template; a chat template that is more than that
cannot be served.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from marin_sft.export.gguf.metadata import sampling
from marin_sft.export.gguf.special_tokens import SpecialTokens, end_texts
from marin_sft.export.gguf.turns import Turns, trims, turns_of
from marin_sft.training.models.model_config import Fields

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# By field of generation_config.json. Ollama's own penalty would look at the last 64 tokens only.
_PARAMETERS = {"repetition_penalty": "repeat_penalty"}
_CONTEXT = 8192  # memory grows with it; by default, Ollama takes less, and cuts what is longer
_FENCE = '"""'


def modelfile(
    file: str, tokenizer: PreTrainedTokenizerFast, generation: Fields, special: SpecialTokens, context: int
) -> tuple[str | None, list[str]]:
    """The text of a Modelfile for the GGUF file `file`, and what Ollama does otherwise, one sentence each. No text: the
    chat template cannot be said there.

    context: the most tokens that the model takes.
    """
    turns = turns_of(tokenizer)
    if tokenizer.chat_template is not None and (turns is None or _unsayable(turns)):
        return None, [
            "no Modelfile: Ollama has no Jinja, and the chat template is more than text around messages; serve "
            f"{file} with llama.cpp, or write a Modelfile with a TEMPLATE of your own"
        ]
    template = "{{ .Prompt }}" if turns is None else go_template(turns, special.begins)
    lines = [f"FROM ./{file}", f"TEMPLATE {_FENCE}{template}{_FENCE}"]
    lines += [f"PARAMETER stop {_quoted(text)}" for text in end_texts(tokenizer, generation)]
    if context > _CONTEXT:
        lines.append(f"# The model takes {context} tokens. Memory grows with num_ctx.")
    lines.append(f"PARAMETER num_ctx {min(context, _CONTEXT)}")
    settings = sampling(generation)
    lines += [f"PARAMETER {_PARAMETERS.get(name, name)} {value}" for name, value in settings.items()]
    if "repetition_penalty" in settings:
        lines.append("PARAMETER repeat_last_n -1")
    return "\n".join([*lines, ""]), _limits(tokenizer, turns)


def go_template(turns: Turns, bos_is_added: bool) -> str:
    """For Ollama's `.Messages`. bos_is_added: the BOS is put before each text anyway."""
    roles = [
        f'if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}{{{{ '
        for role, (before, after) in turns.around.items()
    ]
    no_system = f"{{{{ if not .System }}}}{turns.no_system}{{{{ end }}}}" if turns.no_system else ""
    messages = "{{ range .Messages }}{{ " + "else ".join(roles) + "end }}{{ end }}"
    return ("" if bos_is_added else turns.begin) + no_system + messages + turns.prompt


def _unsayable(turns: Turns) -> bool:
    return any(mark in text for text in turns.texts for mark in ("{{", "}}", _FENCE))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def _limits(tokenizer: PreTrainedTokenizerFast, turns: Turns | None) -> list[str]:
    limits: list[str] = []
    if turns is None:
        return limits
    if trims(tokenizer, turns):
        limits.append("the chat template takes spaces off messages; with the Modelfile, Ollama keeps them")
    if "system" not in turns.around:
        limits.append("the chat template takes no system message; with the Modelfile, Ollama leaves it out")
    if "tools" in str(tokenizer.chat_template):
        limits.append("the chat template takes tools; with the Modelfile, Ollama leaves them out")
    if isinstance(tokenizer.chat_template, dict):
        limits.append("of several chat templates, the Modelfile has the default one; llama.cpp finds all by name")
    return limits
