"""The command line of `marin-sft`. Only the command that is wanted gets its arguments: that is faster."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from marin_sft.errors import UserError
from marin_sft.execution import flags
from marin_sft.execution.flags import HELP
from marin_sft.nearest import did_you_mean
from marin_sft.run.command_flags import add_flags
from marin_sft.run.context import Context
from marin_sft.version import add_version

Run = Callable[[Context], int | None]

TRAINERS = {
    "sft": "train a model on a file of chats, or with TRL's flags",
    "dpo": "train a model on preferences, or with TRL's flags",
}
_CLUSTER = "start, look at or check a Ray cluster"
_WITHOUT_STORE = ("show", "dashboard", "jobs", "stop", "completion")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuses the unknown here, since the parser of a command is asked for what it knows."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            hint = did_you_mean(unknown[0].partition("=")[0], self._option_string_actions)
            raise UserError(f"{self.prog}: unknown {unknown[0]}{hint or f'; see {self.prog} --help'}")
        return found, unknown


def parse(words: list[str], about: str, commands: Mapping[str, Run]) -> argparse.Namespace:
    """about: what `--help` says first. commands: each described by its docstring."""
    known = [*TRAINERS, *commands, "cluster"]
    if words and not words[0].startswith("-") and words[0] not in known:
        hint = did_you_mean(words[0], known) or f"; there are: {', '.join(known)}"
        raise UserError(f"no command {words[0]!r}{hint}")
    return make_parser(words[0] if words else None, about, commands).parse_args(words)


def make_parser(wanted: str | None, about: str, commands: Mapping[str, Run]) -> argparse.ArgumentParser:
    """wanted: the command whose arguments the parser has to know. Of others it knows only what they are for."""
    parser = _Parser(
        prog="marin-sft", description=about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add_version(parser)
    added = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, short in TRAINERS.items():
        added.add_parser(name, help=short)
    for name, run in commands.items():
        if name == wanted:
            add_flags(name, _add_command(added, name, run, name not in _WITHOUT_STORE))
        else:
            added.add_parser(name, help=run.__doc__)
    cluster = added.add_parser("cluster", help=_CLUSTER, description=_CLUSTER, allow_abbrev=False)
    if wanted == "cluster":
        from marin_sft.run.cluster_commands import CLUSTER_COMMANDS, WITHOUT_STORE, add_cluster_flags

        add_version(cluster)
        of_cluster = cluster.add_subparsers(required=True, metavar="COMMAND")
        items = CLUSTER_COMMANDS.items()
        add_cluster_flags({name: _add_command(of_cluster, name, run, name not in WITHOUT_STORE) for name, run in items})
    return parser


def _add_command(
    commands: argparse._SubParsersAction[_Parser], name: str, run: Run, with_store: bool
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=run.__doc__, description=run.__doc__, allow_abbrev=False)
    parser.set_defaults(run=run)
    if with_store:
        parser.add_argument(
            "--prefix", type=flags.prefix, help="where outputs are stored (default: $MARIN_SFT_PREFIX, else ./store)"
        )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--debug", action="store_true", help=HELP["debug"])
    add_version(parser)
    return parser
