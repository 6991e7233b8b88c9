"""The commands of `marin-sft` about servers: serve-check and gguf."""

from __future__ import annotations

import os

from marin_sft.run.context import Context
from marin_sft.run.model_path import find_model, find_tokenizer


def serve_check(context: Context) -> None:
    """load a model in a server that people use, and compare it with ours"""
    arguments = context.arguments
    model = find_model(context, arguments.model)
    base = find_model(context, arguments.base) if arguments.base else None
    tokenizer = find_tokenizer(context, arguments.tokenizer) if arguments.tokenizer else None
    from marin_sft.run.serve_check import check  # imports JAX

    metrics = check(model, base, tokenizer, arguments)
    context.say(metrics, lambda: None)  # the check has printed its table


def write_gguf(context: Context) -> None:
    """write a model as a GGUF file, for llama.cpp and Ollama"""
    arguments = context.arguments
    from marin_sft.run.gguf_file import check_target, write  # imports numpy

    check_target(arguments.output, arguments.force)
    title = os.path.basename(arguments.model.rstrip("/"))
    written = write(find_model(context, arguments.model), title, arguments.output, arguments.type)
    context.say(written, lambda: context.console.print("{output}: {bytes:,} bytes".format(**written)))
