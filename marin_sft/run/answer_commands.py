"""The commands of `marin-sft` that answer: chat and generate."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from marin_sft.errors import UserError
from marin_sft.execution.console import TextConsole
from marin_sft.execution.terminal import visible
from marin_sft.run.context import Context
from marin_sft.run.model_path import find_model

if TYPE_CHECKING:
    from marin_sft.evaluation.answerer import Answerer
    from marin_sft.evaluation.sampling import Sampling


def chat(context: Context) -> None:
    """talk to a model: a directory, or a step that exported it; /help in the chat lists its commands"""
    arguments = context.arguments
    path, answerer = _answerer(context)
    from marin_sft.evaluation.chat import Chat
    from marin_sft.run.chat import Talk

    chat = Chat(answerer, arguments.max_new_tokens, _sampling(arguments))
    if arguments.system:
        chat.set_system(arguments.system)
    Talk(chat).run(path)


def generate(context: Context) -> None:
    """write a model's answers to a file of prompts"""
    arguments = context.arguments
    if arguments.n > 1 and not arguments.temperature:
        raise UserError(f"--n {arguments.n}: all answers to a prompt would be equal; expected a --temperature above 0")
    from marin_sft.run import generate as generation  # imports rich

    generation.check_output(arguments.output, arguments.prompts, arguments.force)
    _, answerer = _answerer(context)
    request = generation.Request(
        prompts=os.path.expanduser(arguments.prompts),
        output=arguments.output,
        system=arguments.system,
        sampling=_sampling(arguments),
        samples=arguments.n,
        max_new_tokens=arguments.max_new_tokens,
        batch_size=arguments.batch_size,
    )
    done = generation.generate(answerer, request, TextConsole(stderr=True))
    text = "{output}: {answers} answers, of which {stopped} ended by themselves".format(**done)
    context.say(done, lambda: context.console.print(text))


def _answerer(context: Context) -> tuple[str, Answerer]:
    """The model that the arguments name, and where it is."""
    arguments = context.arguments
    path = find_model(context, arguments.model)
    base = find_model(context, arguments.base) if arguments.base else None
    if sys.stderr.isatty():
        print(visible(f"loading {path}"), file=sys.stderr)
    from marin_sft.evaluation.answerer import Answerer, other_base  # imports JAX

    answerer = Answerer.load(path, base)
    if other := other_base(path, base):
        print(visible(other), file=sys.stderr)
    return path, answerer


def _sampling(arguments: argparse.Namespace) -> Sampling:
    from marin_sft.evaluation.sampling import Sampling  # imports JAX

    asked = {"--top_p": arguments.top_p < 1, "--top_k": arguments.top_k is not None, "--seed": arguments.seed != 0}
    if not arguments.temperature and any(asked.values()):
        given = next(name for name, is_given in asked.items() if is_given)
        raise UserError(f"{given} changes nothing without a --temperature above 0: the likeliest token is taken")
    return Sampling(arguments.temperature, arguments.top_p, arguments.seed, arguments.top_k)
