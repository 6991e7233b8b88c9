"""Completion of `marin-sft` in shells, by argcomplete: the shell runs the command, which answers what could follow.

Steps and launches are completed from a store on this machine; a remote one would take too long.
"""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Callable, Iterator

import argcomplete
from argcomplete.completers import DirectoriesCompleter

from marin_sft.errors import MarinSftError
from marin_sft.execution.catalog import step_directories, step_name
from marin_sft.execution.flags import HELP, default_prefix
from marin_sft.execution.record import read_launches
from marin_sft.execution.store import Store
from marin_sft.execution.stores import open_store
from marin_sft.paths import local_path
from marin_sft.run.command_parser import TRAINERS

NAME = "marin-sft"
_MOST = 500  # steps, so that a listing stays readable


def script(shell: str) -> str:
    """What a shell has to read."""
    return argcomplete.shellcode([NAME], shell=shell).strip()


def answer(make_parser: Callable[[str | None], argparse.ArgumentParser]) -> None:
    """Answer the shell that has asked, and exit. make_parser: for the command of the line that is completed."""
    words = os.environ.get("COMP_LINE", "").split()
    wanted = words[1] if len(words) > 1 else None
    parser = make_parser(wanted)
    for each in _parsers(parser):
        if wanted in TRAINERS and each.prog.endswith(f" {wanted}"):
            _add_settings(each, wanted == "dpo")
        for action in each._actions:
            completer = _COMPLETERS.get(str(action.metavar), _COMPLETERS.get(action.dest))
            if completer is not None:
                action.completer = completer  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)


def _add_settings(parser: argparse.ArgumentParser, pairs: bool) -> None:
    """The flags of a training, which otherwise another parser reads."""
    from marin_sft.trainers.settings import SETTINGS, Group  # slow to import, see `training_commands`

    usable = [one for one in SETTINGS if one.kind not in (dict, object) and (pairs or one.group is not Group.DPO)]
    for name in dict.fromkeys([*(one.name for one in usable), *HELP]):
        parser.add_argument(f"--{name}", nargs="?")


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _parsers(child)


def _store(arguments: argparse.Namespace) -> Store | None:
    prefix = getattr(arguments, "prefix", None) or default_prefix()
    place = local_path(prefix)
    return open_store(prefix) if place is not None and os.path.isdir(place) else None


def _steps(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Names; after the `-` that follows one, also with fingerprints."""
    try:
        store = _store(parsed_args)
        directories = step_directories(store) if store else []
    except (MarinSftError, OSError):
        return []
    names = dict.fromkeys(map(step_name, directories))
    exact = [directory for directory in directories if "-" in prefix and directory.startswith(prefix)]
    return [*(name for name in names if name.startswith(prefix)), *exact][:_MOST]


def _runs(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """The newest launches, by script and the end of their names; by the whole name after a digit of its date."""
    try:
        store = _store(parsed_args)
        launches = read_launches(store) if store else []
    except (MarinSftError, OSError):
        return []
    names = [launch.name if prefix[:1].isdigit() else launch.name[23:] for launch in launches]
    return [name for name in names if name.startswith(prefix)][:_MOST]


def _experiments(prefix: str, **_: object) -> list[str]:
    """Files of experiments, and directories on the way to others."""
    folders = [f"{name}/" for name in glob.glob(f"{glob.escape(prefix)}*") if os.path.isdir(name)]
    files = glob.glob(f"{glob.escape(prefix)}*.py")
    ours = [] if prefix else sorted(glob.glob("experiments/*.py"))
    return [*ours, *sorted({*folders, *files} - {*ours})]


def _runs_and_experiments(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    return [*_runs(prefix, parsed_args), *_experiments(prefix)]


def _anything(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    return [*_steps(prefix, parsed_args), *_runs_and_experiments(prefix, parsed_args)]


def _models(prefix: str, parsed_args: argparse.Namespace, **_: object) -> list[str]:
    return [*_steps(prefix, parsed_args), *_DIRECTORIES(prefix)]


_DIRECTORIES = DirectoriesCompleter()
_COMPLETERS: dict[str, Callable[..., object]] = {
    "prefix": _DIRECTORIES,
    "MODEL": _models,
    "STEP": _steps,
    "STEP|JOB": _steps,
    "PATTERN": _steps,
    "A": _steps,
    "B": _steps,
    "RUN": _runs,
    "RUN|EXPERIMENT.py": _runs_and_experiments,
    "RUN|STEP|EXPERIMENT.py": _anything,
    "SCRIPT": _experiments,
    "EXPERIMENT": _experiments,
}
"""By the metavar of an argument, or else its name. The others are files, or words of their own."""
