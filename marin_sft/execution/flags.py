"""The command-line flags of every experiment."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn, get_args

from marin_sft.arguments import NamedFields
from marin_sft.errors import UserError
from marin_sft.execution.ray_environment import LAUNCH_DIR
from marin_sft.nearest import nearest_text
from marin_sft.version import add_version

_QUOTED_LIST = re.compile(r"""\s*\[\s*(["']|\]\s*$)""")

BackendName = Literal["ray", "inline"]
EMPTY_PATH = "expected a path, got an empty one; is a variable of the command not set?"


def default_prefix() -> str:
    """$MARIN_SFT_PREFIX, else $MARIN_PREFIX, else ./store; a relative path is made absolute."""
    return absolute_prefix(os.environ.get("MARIN_SFT_PREFIX") or os.environ.get("MARIN_PREFIX") or "store")


def absolute_prefix(prefix: str) -> str:
    """See `absolute_path`.

    Raises:
        UserError: an empty path, or a relative path in a job launched from another machine.
    """
    if not prefix.strip():
        raise UserError(f"prefix {prefix!r}: {EMPTY_PATH}")
    return absolute_path(prefix, f"prefix {prefix!r}", "set --prefix or MARIN_SFT_PREFIX to")


def absolute_path(given: str, what: str, advice: str = "expected") -> str:
    """A relative path starts where the user launched, which in a Ray job is not the working directory.

    Raises:
        UserError: a relative path in a job launched from another machine.
    """
    path = os.path.expanduser(given)
    if "://" in given or os.path.isabs(path):
        return given if "://" in given else os.path.normpath(path)
    start = os.environ.get(LAUNCH_DIR, os.getcwd())
    if not os.path.isdir(start):
        raise UserError(
            f"{what}: a relative path cannot be used in a job on another machine, whose working directory is "
            f"temporary; {advice} a gs:// or s3:// URL or a shared absolute path"
        )
    return os.path.abspath(os.path.join(start, path))


@dataclass(frozen=True)
class ExecutorFlags(metaclass=NamedFields):
    """The flags of `executor_main`."""

    prefix: str = field(default_factory=default_prefix)
    dry_run: bool = False
    json: bool = False
    force_run: tuple[str, ...] = ()
    cascade: bool = False
    force_run_failed: bool = True
    run_only: tuple[str, ...] = ()
    max_concurrent: int | None = None
    fail_fast: bool = False
    backend: BackendName = "ray"
    beat_timeout: float = 90.0
    prices: str | None = None
    budget: float | None = None
    plan_out: str | None = None
    plan: str | None = None

    @property
    def choosing(self) -> dict[str, object]:
        """The flags that choose which steps run, as JSON."""
        return {
            "force_run": list(self.force_run),
            "cascade": self.cascade,
            "force_run_failed": self.force_run_failed,
            "run_only": list(self.run_only),
        }


BOOLEANS = ("dry_run", "json", "cascade", "force_run_failed", "fail_fast")
LISTS = ("force_run", "run_only")
HELP = {
    "prefix": "where outputs are stored: a path or a gs:// or s3:// URL (default: $MARIN_SFT_PREFIX, else ./store)",
    "dry_run": "print the plan; write nothing, start nothing",
    "json": "print the plan as JSON and nothing else; implies --dry_run",
    "force_run": "rerun these steps: exact names or globs, plain or as a list: ['a', 'b']",
    "cascade": "with --force_run: also rerun everything that depends on those steps",
    "force_run_failed": "rerun steps that failed in an earlier launch (default: true)",
    "run_only": "run only steps whose names match one of these regular expressions, and their inputs",
    "max_concurrent": "how many steps may run at once (default: as many as the backend can hold)",
    "fail_fast": "stop at the first failure instead of finishing steps that do not depend on it",
    "beat_timeout": "seconds without a heartbeat after which another launch's step is taken over (default: 90)",
    "prices": "the file with the prices of machines (default: $MARIN_SFT_PRICES, else ./prices.toml)",
    "budget": "refuse a plan that costs more than this, or whose cost is unknown; in the currency of --prices",
    "plan_out": "write the plan to this file instead of running it",
    "plan": "carry out the plan in this file exactly, or refuse with what has changed since",
    "backend": "where steps run: ray (default) or inline, in this process, for debugging",
    "debug": "also show the traceback of an error",
}


def parse_flags(argv: Sequence[str]) -> ExecutorFlags:
    """Booleans take a value or none; lists take plain names, repeated flags, or `'["a","b"]'`.

    Raises:
        UserError: an unknown flag, with the nearest one, or an invalid value.
    """
    parser = _Parser(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_version(parser)
    for name in BOOLEANS:
        parser.add_argument(
            f"--{name}", type=_boolean, nargs="?", const=True, default=argparse.SUPPRESS, help=HELP[name]
        )
    for name in LISTS:
        parser.add_argument(f"--{name}", nargs="+", action="extend", default=argparse.SUPPRESS, help=HELP[name])
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=HELP["debug"])
    parser.add_argument("--prefix", type=prefix, default=argparse.SUPPRESS, help=HELP["prefix"])
    parser.add_argument("--max_concurrent", type=positive, default=argparse.SUPPRESS, help=HELP["max_concurrent"])
    parser.add_argument("--beat_timeout", type=_seconds, default=argparse.SUPPRESS, help=HELP["beat_timeout"])
    for name in ("plan_out", "plan"):
        parser.add_argument(f"--{name}", type=path, metavar="FILE", default=argparse.SUPPRESS, help=HELP[name])
    parser.add_argument("--prices", type=path, default=argparse.SUPPRESS, help=HELP["prices"])
    parser.add_argument("--budget", type=_cost, default=argparse.SUPPRESS, help=HELP["budget"])
    parser.add_argument("--backend", choices=get_args(BackendName), default=argparse.SUPPRESS, help=HELP["backend"])
    found, unknown = parser.parse_known_args(argv)
    if unknown:
        known = [f"--{name}" for name in HELP]
        hint = nearest_text(unknown[0].split("=")[0], known)
        own = "" if "did you mean" in hint else "; the settings of an experiment are in its file"
        raise UserError(f"unknown argument {unknown[0]!r}{hint}{own}")
    values = vars(found)
    values.pop("debug", None)  # see `errors.debugging`
    for name in LISTS:
        if name in values:
            values[name] = tuple(item for text in values[name] for item in _list(text, name))
    if {"plan", "plan_out"} <= values.keys():
        raise UserError("--plan carries out a plan, and --plan_out writes a new one; expected one of them")
    return ExecutorFlags(**values)


BOOLEAN_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _boolean(text: str) -> bool:
    if text.lower() not in BOOLEAN_WORDS:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return BOOLEAN_WORDS[text.lower()]


def whole_number(text: str, least: int = 0) -> int:
    """The type of a flag. Raises ArgumentTypeError for less than `least`."""
    if not text.isdigit() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number >= {least}, got {text!r}")
    return int(text)


def positive(text: str) -> int:
    """The type of a flag that counts from 1."""
    return whole_number(text, 1)


def path(text: str) -> str:
    """The type of a flag that names a path. Raises ArgumentTypeError for an empty one, which would mean `.`."""
    if not text.strip():
        raise argparse.ArgumentTypeError(EMPTY_PATH)
    return text


def prefix(text: str) -> str:
    """The type of `--prefix`: as `absolute_prefix`, whose errors argparse would not show."""
    try:
        return absolute_prefix(path(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    seconds = _number(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of seconds > 0, got {text!r}")
    return seconds


def _cost(text: str) -> float:
    cost = _number(text)
    if not 0 <= cost < math.inf:
        raise argparse.ArgumentTypeError(f"expected a cost >= 0, such as 200, got {text!r}")
    return cost


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _list(text: str, name: str) -> list[str]:
    """Of one word of the command line: a list as YAML writes it, which JSON is, too; or a plain name."""
    if not text.strip():  # as an expression, it would match every step
        raise UserError(f"--{name}: expected the name of a step, got {text!r}; is a variable of the command not set?")
    plain = not text.lstrip().startswith("[") if name == "force_run" else not _QUOTED_LIST.match(text)
    if plain:  # a regular expression may also start with "["
        return [text]
    import yaml

    try:
        items = yaml.safe_load(text)
    except yaml.YAMLError as error:
        said = getattr(error, "problem", None) or error
        raise UserError(f"--{name} {text!r}: expected a list of strings, like ['a', 'b']: {said}") from None
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise UserError(f"--{name} {text!r}: expected a list of strings, like ['a', 'b']")
    return items


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)
