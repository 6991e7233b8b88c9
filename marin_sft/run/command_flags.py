"""The arguments of the commands of `marin-sft`, and the types of their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from marin_sft.execution.flags import HELP, path, positive, whole_number

_LAUNCH = "a launch: the name of its script, for the newest, or a part of its own name, such as quickstart-3f9a2c"
_LAUNCHES = "`marin-sft runs` lists them"
_STEP = "its name, its name-fingerprint or a prefix of that, or a directory; `marin-sft status` lists them"
_JOB = "its name, or a part of it; `marin-sft jobs` lists them"
_BASE = "for an adapter: its base model (default: as it says)"
_PROMPTS = (
    'a file, directory or glob: rows with "messages" or "prompt" (.jsonl and other kinds), or .txt with a prompt '
    "on each line"
)


def add_flags(name: str, parser: argparse.ArgumentParser) -> None:
    """The arguments of a command, apart from those of all commands."""
    _FLAGS[name](parser)


def _add_plan_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("script", metavar="SCRIPT")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="flags of the script")


def _add_show_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=path, metavar="FILE", help="the file of the plan")


def _add_pattern(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", metavar="PATTERN", help="a glob, or a part of a name")


def _add_watch_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "launch",
        nargs="?",
        metavar="RUN|EXPERIMENT.py",
        help=f"{_LAUNCH}; or the file of an experiment (default: the newest launch). {_LAUNCHES}",
    )


def _add_step(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("step", metavar="STEP", help=_STEP)


def _add_copy_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("step", metavar="STEP", help=f"a step: {_STEP}. Or another directory, local or remote")
    parser.add_argument("directory", type=path, metavar="DIRECTORY", help="a new one")


def _add_pin_flags(parser: argparse.ArgumentParser) -> None:
    _add_step(parser)
    parser.add_argument("--note", default="", help="why you keep it")


def _add_logs_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("step", metavar="STEP|JOB", help=f"a step: {_STEP}. Or a job: {_JOB}")
    parser.add_argument("-f", "--follow", action="store_true", help="print on until it ends")
    parser.add_argument("--attempt", type=int, metavar="N", help="its number (default: the newest)")
    parser.add_argument("--rank", type=int, metavar="N", help="one process of a step on several hosts")
    _add_address(parser)


def _add_completion_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="SHELL", help="bash, zsh or fish")


def _add_jobs_flags(parser: argparse.ArgumentParser) -> None:
    _add_address(parser)
    parser.add_argument("--limit", type=positive, default=30, help="how many to list (default: 30)")


def _add_dashboard_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", nargs="?", metavar="JOB", help=f"the page of a job: {_JOB}")
    parser.add_argument("--address", metavar="A", help="a dashboard or a head (default: as for ray_run)")
    parser.add_argument("--port", type=positive, default=0, metavar="N", help="of the link (default: any free one)")


def _add_stop_flags(parser: argparse.ArgumentParser) -> None:
    _add_address(parser)
    parser.add_argument("job", metavar="JOB", help=_JOB)


def _add_address(parser: argparse.ArgumentParser) -> None:
    help_ = "of a job: the cluster's dashboard or head (default: as for ray_run)"
    parser.add_argument("--address", metavar="A", help=help_)


def _add_diff_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="A", help=f"a step: {_STEP}")
    parser.add_argument("new", metavar="B", help="another one")


def _add_cost_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", nargs="?", metavar="RUN", help=f"{_LAUNCH} (default: all). {_LAUNCHES}")
    _add_prices(parser)


def _add_prices(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prices", type=path, metavar="FILE", help=HELP["prices"])


def _add_runs_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_name", nargs="?", metavar="RUN", help=f"{_LAUNCH} (default: list them all)")
    parser.add_argument("--limit", type=int, default=30, help="how many launches to list (default: 30)")


def _add_import_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=path, metavar="YAML")
    parser.add_argument("-o", "--output", type=path, required=True, metavar="FILE", help="the experiment file")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")


def _add_gc_flags(parser: argparse.ArgumentParser) -> None:
    from marin_sft.execution.reachability import GcPolicy  # no other command removes anything

    policy = GcPolicy()
    parser.add_argument("--delete", action="store_true", help="remove it; without this flag gc only lists it")
    parser.add_argument("--why", metavar="STEP", help=f"show what keeps this step: {_STEP}")
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


def _add_preview_flags(parser: argparse.ArgumentParser) -> None:
    from marin_sft.data.data_configs import POLICIES  # loads how data is configured

    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="the file of an experiment")
    parser.add_argument("step", nargs="?", metavar="STEP", help="its tokenize step, if it has several")
    parser.add_argument("--tokenizer", type=path, metavar="T", help="without an experiment: a directory, or a hub id")
    parser.add_argument("--data", type=path, metavar="FILE", help="without an experiment: a file, directory or glob")
    _add_format_flags(parser)
    parser.add_argument("--train_on", metavar="W", help="assistant (default), last, all, completion or everything")
    parser.add_argument("--max_length", type=positive, metavar="N", help="maximal number of tokens in a row")
    parser.add_argument("--over_length", default="truncate", choices=POLICIES, metavar="P", help=", ".join(POLICIES))
    parser.add_argument(
        "--rows",
        type=positive,
        default=3,
        metavar="N",
        help="show so many rows (default: 3); up to 1,000 are looked at",
    )


def _add_format_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", metavar="F", help="the row format, or auto (default)")
    parser.add_argument(
        "--columns", metavar="OUR=THEIRS,..", help="keys of the rows: instruction=question,output=reply"
    )
    parser.add_argument("--role_map", metavar="THEIRS=OUR,..", help="role names of the rows: bot=assistant")
    parser.add_argument(
        "--format_options", metavar="JSON", help="more fields of ChatLmDatasetFormat: '{\"drop_system\": true}'"
    )


def _add_lint_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        nargs="+",
        metavar="[NAME=]DATA",
        help="files, directories, globs, steps with rows, or datasets of the hub; or EXPERIMENT.py, and perhaps names "
        "of its steps",
    )
    _add_format_flags(parser)
    parser.set_defaults(train_on=None)
    parser.add_argument("--split", default="train", metavar="S", help="of datasets of the hub (default: train)")
    parser.add_argument("--tokenizer", type=path, metavar="T", help="whose special tokens no text should hold")
    parser.add_argument(
        "--test", action="append", metavar="[NAME=]DATA", help="a test set, whose prompts should not be in the rows"
    )
    parser.add_argument(
        "--fail_above",
        action="append",
        metavar="NAME=SHARE,..",
        help="exit code 1 if a finding is in more than this share of the rows: duplicate_rows=0.01",
    )
    parser.add_argument(
        "--samples", type=whole_number, default=2, metavar="N", help="of each finding, at most 5 (default: 2)"
    )
    parser.add_argument("-o", "--output", type=path, metavar="DIR", help="keep the findings, with 5 samples of each")


def _add_ui_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port", type=whole_number, default=8710, metavar="N", help="(default: 8710; 0: any that is free)"
    )
    _add_prices(parser)


def _add_report_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subjects",
        nargs="*",
        metavar="RUN|STEP|EXPERIMENT.py",
        help=f"{_LAUNCH}; a step; or the file of an experiment. Several are compared (default: the newest launch). "
        "`marin-sft runs` lists launches, `marin-sft status` steps",
    )
    parser.add_argument(
        "-o", "--output", type=path, default="report.html", metavar="FILE", help="where to (default: report.html)"
    )
    _add_prices(parser)


def _add_fit_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("script", metavar="SCRIPT", help="the file of an experiment")
    parser.add_argument("--device", metavar="NAME", help="H100, v5e, CPU, ... (default: as in the step's resources)")
    parser.add_argument("--devices", type=positive, metavar="N", help="how many (default: as in the step's resources)")
    parser.add_argument(
        "--steps", metavar="NAME", help="only training steps with this, or a match of it, in their name"
    )


def _add_samples_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="an evaluation: a step, or the directory of its output")
    parser.add_argument("b", nargs="?", metavar="B", help="another one, of the same prompts, to show next to it")
    parser.add_argument("--set", metavar="NAME", help="only this set of prompts")
    parser.add_argument("--limit", type=positive, default=20, metavar="N", help="so many prompts (default: 20)")


def _add_serve_check_flags(parser: argparse.ArgumentParser) -> None:
    from marin_sft.evaluation.step_configs import ENGINES, ServedConfig  # loads how evaluations are configured

    fields = ServedConfig.__dataclass_fields__
    parser.add_argument("model", type=path, metavar="MODEL", help="an export or adapter: a directory or a step")
    parser.add_argument("--base", type=path, metavar="B", help=_BASE)
    parser.add_argument(
        "--with",
        dest="engine",
        choices=ENGINES,
        default="vllm",
        metavar="SERVER",
        help=", ".join(ENGINES),
    )
    parser.add_argument("--prompts", type=path, metavar="FILE", help=f"{_PROMPTS} (default: general questions)")
    parser.add_argument("--python", type=path, metavar="FILE", help="the Python of the server's environment")
    parser.add_argument(
        "--tokenizer",
        type=path,
        metavar="DIR",
        help="that of training, a directory or a step (default: the model's own)",
    )
    parser.add_argument("-o", "--output", type=path, metavar="DIR", help="keep answers, metrics and the server's log")
    for name, metavar, about in (
        ("max_prompts", "N", "ask so many"),
        ("max_new_tokens", "N", "the longest answer"),
        ("max_model_len", "N", "the longest sequence that the server is to take"),
    ):
        default = fields[name].default
        told = about if default is None else f"{about} (default: {default})"
        parser.add_argument(f"--{name}", type=positive, default=default, metavar=metavar, help=told)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        metavar="T",
        help="that the server computes in: float32 (default), bfloat16 or float16",
    )
    parser.add_argument(
        "--logprob_tolerance",
        type=amount,
        default=fields["logprob_tolerance"].default,
        metavar="X",
        help="how far log-probabilities may differ (default: %(default)s; about 0.2 for bfloat16)",
    )


def _add_gguf_flags(parser: argparse.ArgumentParser) -> None:
    from marin_sft.export.hf_config import GGUF_TYPES  # loads how exports are configured

    parser.add_argument("model", type=path, metavar="MODEL", help="an export: a directory, local or remote, or a step")
    parser.add_argument("-o", "--output", type=path, required=True, metavar="FILE.gguf", help="the file to write")
    parser.add_argument(
        "--type",
        choices=GGUF_TYPES,
        metavar="T",
        help=f"of the matrices: {', '.join(GGUF_TYPES)} (default: that of the weights)",
    )
    parser.add_argument("--force", action="store_true", help="write over files that are there")


def _add_answer_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=path, metavar="MODEL", help="a directory, local or remote, or a step")
    parser.add_argument("--base", type=path, metavar="B", help=_BASE)
    parser.add_argument("--system", metavar="TEXT", help="a system message")
    parser.add_argument("--max_new_tokens", type=positive, default=512, metavar="N", help="of an answer (default: 512)")
    parser.add_argument(
        "--temperature", type=amount, default=0.0, metavar="T", help="0 for greedy decoding (default), or higher"
    )
    parser.add_argument(
        "--top_p", type=_share, default=1.0, metavar="P", help="draw from the likeliest tokens of this probability"
    )
    parser.add_argument("--top_k", type=positive, metavar="K", help="draw from so many likeliest tokens")
    parser.add_argument("--seed", type=whole_number, default=0, metavar="N", help="of what is drawn (default: 0)")


def _add_generate_flags(parser: argparse.ArgumentParser) -> None:
    _add_answer_flags(parser)
    parser.add_argument(
        "--prompts",
        type=path,
        required=True,
        metavar="FILE",
        help=f"{_PROMPTS}; an answer that a row ends with is kept as its reference",
    )
    parser.add_argument("-o", "--output", type=path, required=True, metavar="OUT.jsonl", help="the file to write")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")
    parser.add_argument("--n", type=positive, default=1, metavar="N", help="answers to each prompt (default: 1)")
    parser.add_argument(
        "--batch_size", type=positive, default=16, metavar="N", help="answers at the same time (default: 16)"
    )


def _share(text: str) -> float:
    value = amount(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a probability above 0, at most 1, got {text!r}")
    return value


def amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number >= 0, got {text!r}")
    return value


_FLAGS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "plan": _add_plan_flags,
    "status": _add_pattern,
    "watch": _add_watch_flags,
    "why": _add_step,
    "path": _add_step,
    "copy": _add_copy_flags,
    "logs": _add_logs_flags,
    "diff": _add_diff_flags,
    "runs": _add_runs_flags,
    "report": _add_report_flags,
    "ui": _add_ui_flags,
    "cost": _add_cost_flags,
    "show": _add_show_flags,
    "pin": _add_pin_flags,
    "unpin": _add_step,
    "gc": _add_gc_flags,
    "verify": _add_pattern,
    "preview": _add_preview_flags,
    "lint": _add_lint_flags,
    "fit": _add_fit_flags,
    "import": _add_import_flags,
    "chat": _add_answer_flags,
    "samples": _add_samples_flags,
    "generate": _add_generate_flags,
    "serve-check": _add_serve_check_flags,
    "gguf": _add_gguf_flags,
    "completion": _add_completion_flags,
    "dashboard": _add_dashboard_flags,
    "jobs": _add_jobs_flags,
    "stop": _add_stop_flags,
}
