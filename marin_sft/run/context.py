"""What a command of `marin-sft` gets: its arguments, a console and the store."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator

from rich.console import Console

from marin_sft.data.messages.examples import BadRow
from marin_sft.errors import DataError, NoSuchStep, TrainingError, UserError
from marin_sft.execution.catalog import Found, find_step
from marin_sft.execution.claims import attempt_path
from marin_sft.execution.console import make_console
from marin_sft.execution.flags import default_prefix
from marin_sft.execution.step_state import read_state
from marin_sft.execution.store import Store
from marin_sft.execution.stores import open_reachable
from marin_sft.execution.terminal import visible
from marin_sft.paths import local_path, nearest_path
from marin_sft.run.launches import command_that_runs
from marin_sft.run.status import state_name


@contextlib.contextmanager
def wrong_input() -> Iterator[None]:
    """Inside the block, a model or rows that cannot be used are the user's mistake, since a command was given them."""
    try:
        yield
    except BadRow as error:
        raise UserError(error.message) from error
    except (DataError, TrainingError) as error:
        raise UserError(str(error)) from error


def output_in(directory: str) -> str:
    """The committed output in a step's directory, of any store. Raises UserError: it has none."""
    above, _, name = (directory if "://" in directory else os.path.abspath(directory)).rstrip("/").rpartition("/")
    store = open_reachable(above)
    commit = read_state(store, name).commit
    if commit is None:
        raise UserError(f"{directory} has no committed output")
    return attempt_path(store, name, commit.attempt)


class Context:
    """The arguments, console and store of a command."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.json: bool = arguments.json
        self.console: Console = make_console()

    @functools.cached_property
    def prefix(self) -> str:
        return str(self.arguments.prefix or default_prefix())

    @functools.cached_property
    def store(self) -> Store:
        prefix = self.prefix
        store = open_reachable(prefix)
        place = local_path(prefix)
        if place is not None and not os.path.isdir(place):
            raise UserError(
                f"prefix {prefix}: no such directory; set --prefix to the directory that experiments write to"
                f"{nearest_path(place)}"
            )
        return store

    def step(self, text: str) -> Found:
        """Raises NoSuchStep: none of this name has begun; with the command that runs it, or the nearest name."""
        try:
            found = find_step(self.store, text)
        except NoSuchStep as error:
            if command := command_that_runs(self.store, text):
                raise NoSuchStep(f"{text} has not run under {self.store.prefix}; to run it: {command}") from error
            raise
        if found.others and not self.json:
            count = len(found.others) + 1
            print(visible(f"{text}: {count} steps; this is {found.directory}, the newest"), file=sys.stderr)
        return found

    def output(self, text: str) -> tuple[Found, str]:
        """A step and the path of its committed output. Raises UserError: it has none, or as `step`."""
        found = self.step(text)
        if found.state.commit is None:
            command = command_that_runs(self.store, found.directory)
            raise UserError(
                f"{found.directory} has no committed output: it is {state_name(found.state)}; see marin-sft why "
                f"{found.directory}{f'; to run it: {command}' if command else ''}"
            )
        return found, attempt_path(self.store, found.directory, found.state.commit.attempt)

    def say(self, value: object, show: Callable[[], object]) -> None:
        """Print the value as JSON, or call `show`."""
        if self.json:
            print(json.dumps(value, indent=1))
        else:
            show()
