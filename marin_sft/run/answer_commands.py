"""The commands of `marin-sft` that answer: chat and generate."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from marin_sft.errors import UserError
from marin_sft.execution.console import TextConsole
from marin_sft.execution.terminal import libraries_print_to_stderr, visible
from marin_sft.run.context import Context, wrong_input
from marin_sft.run.model_path import find_model

if TYPE_CHECKING:
    from marin_sft.evaluation.answerer import Answerer
    from marin_sft.evaluation.sampling import Sampling


@wrong_input()
def chat(context: Context) -> None:
    """talk to a model: a directory, or a step that exported it; /help in the chat lists its commands"""
    arguments = context.arguments
    if sys.stdin is None:
        raise UserError("chat: the input is closed; expected a terminal, or lines to answer")
    models = _models(context)
    answerer = _answerer(*models)
    from marin_sft.evaluation.chat import Chat
    from marin_sft.run.chat import Talk
    from marin_sft.run.chat_lines import answer_lines

    chat = Chat(answerer, arguments.max_new_tokens, _sampling(arguments))
    if arguments.system:
        chat.set_system(arguments.system)
    if sys.stdin.isatty() and not context.json:
        Talk(chat).run(models[0])
    else:
        answer_lines(chat, sys.stdin.buffer, context.json)


@wrong_input()
def generate(context: Context) -> None:
    """write a model's answers to a file of prompts"""
    arguments = context.arguments
    if arguments.n > 1 and not arguments.temperature:
        raise UserError(f"--n {arguments.n}: all answers to a prompt would be equal; expected a --temperature above 0")
    from marin_sft.run import generate as generation  # imports rich

    models = _models(context)
    request = generation.Request(
        models=models,
        prompts=os.path.expanduser(arguments.prompts),
        output=arguments.output,
        system=arguments.system,
        sampling=_sampling(arguments),
        samples=arguments.n,
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.batch_size,
    )
    generation.check(request, arguments.force)
    answerer = _answerer(*models)
    done = generation.generate(answerer, request, TextConsole(stderr=True))
    text = "{output}: {answers} answers; {stopped} ended by themselves".format(**done)
    context.say(done, lambda: context.console.print(text))


def _models(context: Context) -> tuple[str, ...]:
    """Where the model is that the arguments name, and the base, if they name one."""
    named = (context.arguments.model, context.arguments.base)
    return tuple(find_model(context, text) for text in named if text)


def _answerer(path: str, base: str | None = None) -> Answerer:
    if sys.stderr.isatty():
        print(visible(f"loading {path}"), file=sys.stderr)
    from marin_sft.evaluation.answerer import Answerer, note_on_base  # imports JAX

    if base and (note := note_on_base(path, base)):
        print(visible(note), file=sys.stderr)
    with libraries_print_to_stderr():  # tokenizers warns of gaps between ids
        return Answerer.load(path, base)


def _sampling(arguments: argparse.Namespace) -> Sampling:
    from marin_sft.evaluation.sampling import Sampling  # imports JAX

    asked = {"--top_p": arguments.top_p < 1, "--top_k": arguments.top_k is not None, "--seed": arguments.seed != 0}
    if not arguments.temperature and any(asked.values()):
        given = next(name for name, is_given in asked.items() if is_given)
        raise UserError(f"{given} changes nothing without a --temperature above 0: the likeliest token is taken")
    return Sampling(arguments.temperature, arguments.top_p, arguments.seed, arguments.top_k)
