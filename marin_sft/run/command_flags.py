"""The flags of the commands of `marin-sft` that have many, and the types of their values."""

from __future__ import annotations

import argparse

from marin_sft.data.data_configs import POLICIES
from marin_sft.execution.flags import path, positive, whole_number
from marin_sft.execution.reachability import GcPolicy


def add_gc_flags(parser: argparse.ArgumentParser) -> None:
    policy = GcPolicy()
    parser.add_argument("--delete", action="store_true", help="remove it; without this flag gc only lists it")
    parser.add_argument("--why", metavar="STEP", help="show what keeps this step")
    parser.add_argument(
        "--keep_runs",
        type=whole_number,
        default=policy.keep_runs,
        metavar="N",
        help="keep what the newest N launches use (default: 20)",
    )
    parser.add_argument(
        "--keep_days",
        type=amount,
        default=policy.keep_days,
        metavar="D",
        help="keep what launches of the last D days use (default: 14)",
    )
    parser.add_argument(
        "--grace_hours",
        type=amount,
        default=policy.grace_hours,
        metavar="H",
        help="keep everything younger than H hours (default: 24)",
    )


def add_preview_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="the file of an experiment")
    parser.add_argument("step", nargs="?", metavar="STEP", help="its tokenize step, if it has several")
    parser.add_argument("--tokenizer", type=path, metavar="T", help="without an experiment: a directory, or a hub id")
    parser.add_argument("--data", type=path, metavar="FILE", help="without an experiment: a file, directory or glob")
    parser.add_argument("--format", metavar="F", help="the row format, or auto (default)")
    parser.add_argument(
        "--columns", metavar="OUR=THEIRS,..", help="keys of the rows: instruction=question,output=reply"
    )
    parser.add_argument("--role_map", metavar="THEIRS=OUR,..", help="role names of the rows: bot=assistant")
    parser.add_argument("--train_on", metavar="W", help="assistant (default), last, all, completion or everything")
    parser.add_argument(
        "--format_options", metavar="JSON", help="more fields of ChatLmDatasetFormat: '{\"drop_system\": true}'"
    )
    parser.add_argument("--max_length", type=positive, metavar="N", help="maximal number of tokens in a row")
    parser.add_argument("--over_length", default="truncate", choices=POLICIES, metavar="P", help=", ".join(POLICIES))
    parser.add_argument(
        "--rows",
        type=positive,
        default=3,
        metavar="N",
        help="show so many rows (default: 3); up to 1,000 are looked at",
    )


def add_report_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subjects",
        nargs="*",
        metavar="RUN|STEP|EXPERIMENT.py",
        help="a part of a launch's name, a step, or the file of an experiment; several are compared (default: the "
        "newest launch)",
    )
    parser.add_argument(
        "-o", "--output", type=path, default="report.html", metavar="FILE", help="where to (default: report.html)"
    )


def add_fit_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("script", metavar="SCRIPT", help="the file of an experiment")
    parser.add_argument("--device", metavar="NAME", help="such as H100 or v5e (default: as in the step's resources)")
    parser.add_argument("--devices", type=positive, metavar="N", help="how many (default: as in the step's resources)")
    parser.add_argument(
        "--steps", metavar="NAME", help="only training steps with this, or a match of it, in their name"
    )


def add_samples_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="an evaluation: a step, or the directory of its output")
    parser.add_argument("b", nargs="?", metavar="B", help="another one, of the same prompts, to show next to it")
    parser.add_argument("--set", metavar="NAME", help="only this set of prompts")
    parser.add_argument("--limit", type=positive, default=20, metavar="N", help="so many prompts (default: 20)")


def amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number >= 0, got {text!r}")
    return value
