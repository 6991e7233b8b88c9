"""The version of the package, as `--version` of every command line prints it."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn


def version_text() -> str:
    import importlib.metadata  # slower than most commands

    return f"marin-sft {importlib.metadata.version('marin_sft')}"


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> NoReturn:
        print(version_text())
        sys.exit(0)


def add_version(parser: argparse.ArgumentParser) -> None:
    """Add the flag `--version`."""
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="print the version and exit"
    )
