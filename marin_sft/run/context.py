"""What a command of `marin-sft` gets: its arguments, a console and the store."""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable

from rich.console import Console

from marin_sft.errors import UserError
from marin_sft.execution.catalog import Found, find_step
from marin_sft.execution.console import make_console
from marin_sft.execution.flags import default_prefix
from marin_sft.execution.store import Store
from marin_sft.execution.stores import open_reachable
from marin_sft.execution.terminal import visible
from marin_sft.paths import local_path, nearest_path


class Context:
    """The arguments, console and store of a command."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.json: bool = arguments.json
        self.console: Console = make_console()

    @functools.cached_property
    def store(self) -> Store:
        prefix = self.arguments.prefix or default_prefix()
        store = open_reachable(prefix)
        place = local_path(prefix)
        if place is not None and not os.path.isdir(place):
            raise UserError(
                f"prefix {prefix}: no such directory; set --prefix to the directory that experiments write to"
                f"{nearest_path(place)}"
            )
        return store

    def step(self, text: str) -> Found:
        found = find_step(self.store, text)
        if found.others and not self.json:
            count = len(found.others) + 1
            print(visible(f"{text}: {count} steps; this is {found.directory}, the newest"), file=sys.stderr)
        return found

    def say(self, value: object, show: Callable[[], object]) -> None:
        """Print the value as JSON, or call `show`."""
        if self.json:
            print(json.dumps(value, indent=1))
        else:
            show()
