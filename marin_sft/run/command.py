"""`marin-sft`: inspect the steps under a prefix, their history, and remove
what is no longer needed.

    marin-sft status [PATTERN]
    marin-sft why STEP

STEP is a step's name, its `name-fingerprint` or a prefix of that, or a
directory. Exit codes: 0 done, 1 failed, 2 user error, 130 interrupted;
`plan` returns the exit code of the script.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

from marin_sft.errors import MarinSftError, UserError
from marin_sft.execution import flags
from marin_sft.execution.catalog import read_catalog, step_name
from marin_sft.execution.console import make_console
from marin_sft.execution.flags import HELP, default_prefix
from marin_sft.execution.gc import collect_garbage
from marin_sft.execution.pins import pin_step, unpin_step
from marin_sft.execution.prices import read_prices
from marin_sft.execution.reachability import GcPolicy, find_garbage
from marin_sft.execution.tables import counted
from marin_sft.execution.terminal import complain, early_end_allowed, visible, write_log
from marin_sft.nearest import did_you_mean, nearest_text
from marin_sft.run import copying, cost, explanation, garbage, launches, logs, planned, status, verification
from marin_sft.run.answer_commands import chat, generate
from marin_sft.run.cluster_commands import (
    CLUSTER_COMMANDS,
    WITHOUT_STORE,
    add_cluster_flags,
    add_job_flags,
    list_jobs,
    log_of_job,
    stop,
)
from marin_sft.run.command_flags import add_flags
from marin_sft.run.context import Context, wrong_input
from marin_sft.run.job_client import known_address
from marin_sft.run.jobs import looks_like_a_job
from marin_sft.run.script import run_script
from marin_sft.run.server_commands import serve_check, write_gguf

if TYPE_CHECKING:
    from marin_sft.trainers.trainer import SFTTrainer


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and words and words[0] in WITHOUT_TORCH:  # in a process of its own
        os.environ.setdefault("USE_TORCH", "0")  # transformers would import it where it is installed
    if words and words[0] in TRAINERS:
        return _train(words[0], words[1:])
    try:
        arguments = _parse(words)
        code = 0
        with early_end_allowed():
            code = arguments.run(Context(arguments)) or 0
        return code
    except UserError as error:
        return complain(error, 2)
    except (MarinSftError, OSError) as error:
        return complain(error, 1)
    except KeyboardInterrupt:
        return 130


def _train(method: str, flags: Sequence[str]) -> int:
    from marin_sft.trainers import commands  # slow to import, and other commands do not need it

    run = {"sft": commands.sft_command, "dpo": commands.dpo_command}[method]
    return run(flags, commands.dialect_of(flags), f"marin-sft {method}", _write_experiment)


def _write_experiment(trainer: SFTTrainer, path: str) -> None:
    from marin_sft.run import experiment_out  # with the trainers, see `_train`

    experiment_out.check_target(path)
    text = experiment_out.experiment_source(trainer, " ".join(["marin-sft", *sys.argv[1:]]))
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"wrote {path}: python {path} --dry_run shows what it makes")


def plan(context: Context) -> int | None:
    """show what a script would run, and why; the script's flags follow it"""
    arguments = context.arguments
    script = arguments.script
    if not os.path.isfile(script):
        raise UserError(f"plan: expected the file of an experiment, got {script!r}, which does not exist")
    prefix = ["--prefix", arguments.prefix] if arguments.prefix else []
    sys.argv = [script, *prefix, *(["--json"] if context.json else []), *arguments.flags, "--dry_run"]
    run_script(script, "__main__")
    return None


def status_of_steps(context: Context) -> None:
    """list all steps with state, age, duration and progress"""
    catalog = read_catalog(context.store)
    found = status.read_statuses(context.store, context.arguments.pattern, catalog.steps)

    def show() -> None:
        status.print_statuses(context.console, context.store, found)
        status.print_stores(context.console, context.store, catalog.stores)

    context.say([asdict(item) for item in found], show)


def why(context: Context) -> None:
    """explain why a step last ran or was cached"""
    facts = explanation.explain(context.store, context.step(context.arguments.step))
    context.say(facts, lambda: explanation.print_explanation(context.console, context.store, facts))


def path(context: Context) -> None:
    """print only the path of a step's committed output"""
    found, output = context.output(context.arguments.step)
    assert found.state.commit is not None
    facts = {"name": step_name(found.directory), "output": output, "commit": found.state.commit.number}
    context.say(facts, lambda: print(output))


def copy(context: Context) -> None:
    """copy a step's output to a new directory, without the store's own files"""
    arguments = context.arguments
    names = copying.copy_output(context, arguments.step, arguments.directory)
    facts = {"directory": os.path.abspath(arguments.directory), "files": names}
    context.say(facts, lambda: context.console.print(f"{counted(len(names), 'file')} in {facts['directory']}"))


def log(context: Context) -> int | None:
    """print the output of a step's newest attempt, or of a job"""
    arguments = context.arguments
    if arguments.address or looks_like_a_job(arguments.step):
        return log_of_job(context, arguments.step)
    try:
        directory = context.step(arguments.step).directory
    except UserError as error:
        if known_address() is None:
            raise
        with contextlib.suppress(UserError):
            return log_of_job(context, arguments.step)
        raise error
    store = context.store
    attempt, path = logs.log_path(store, directory, arguments.attempt, arguments.rank)
    if context.json:
        sys.stdout.writelines(logs.log_json(store, attempt, path))
    else:
        follow = arguments.follow
        write_log(logs.follow_log(store, directory, attempt, path) if follow else logs.read_log(store, path))
    return None


def diff(context: Context) -> None:
    """show the fields in which two steps differ"""
    old, new = context.step(context.arguments.old), context.step(context.arguments.new)
    payloads = [explanation.payload_of_step(context.store, found) for found in (old, new)]
    found = explanation.differences(context.store, *payloads)
    context.say(found, lambda: explanation.print_differences(context.console, old.directory, new.directory, found))


def runs(context: Context) -> None:
    """list launches, or show one in detail"""
    store, console = context.store, context.console
    if context.arguments.run_name is None:
        found = launches.summaries(store, context.arguments.limit)
        context.say(found, lambda: launches.print_summaries(console, store, found))
        return
    facts = launches.details(store, launches.find_launch(store, context.arguments.run_name))
    context.say(facts, lambda: launches.print_details(console, facts))


def report(context: Context) -> None:
    """write a page about launches, steps or an experiment: one file to open in a browser"""
    from marin_sft.run.report import command  # loads what each section reads with

    arguments = context.arguments
    found = command.report_contents(context.store, arguments.subjects, read_prices(arguments.prices))
    context.say(found, lambda: context.console.print(command.write_report(found, arguments.output)))


def ui(context: Context) -> None:
    """show the same pages live in a browser on this machine"""
    from marin_sft.run.report.server import serve  # as in `report`

    serve(context.store, context.arguments.port, read_prices(context.arguments.prices))


def pin(context: Context) -> None:
    """protect a step from gc"""
    made = pin_step(context.store, context.step(context.arguments.step).directory, context.arguments.note)
    context.say(asdict(made), lambda: context.console.print(f"pinned {made.directory}"))


def unpin(context: Context) -> int:
    """remove a pin"""
    directory = context.step(context.arguments.step).directory
    was = unpin_step(context.store, directory)
    text = f"unpinned {directory}" if was else f"{directory} was not pinned"
    context.say({"directory": directory, "was_pinned": was}, lambda: context.console.print(text))
    return 0


def gc(context: Context) -> int:
    """list what no launch, pin or claim keeps; remove it with --delete"""
    arguments, store, console = context.arguments, context.store, context.console
    policy = GcPolicy(arguments.keep_runs, arguments.keep_days, arguments.grace_hours)
    if arguments.delete and not arguments.why:
        from marin_sft.trainers.memory import remove_abandoned  # with the trainers, see `_train`

        for directory in remove_abandoned(store.prefix, policy.grace_hours):
            print(visible(f"removed {directory}, which a killed script left"), file=sys.stderr)
        done = collect_garbage(store, policy, lambda c: None if context.json else garbage.print_collected(console, c))
        context.say([garbage.collected_json(store, item) for item in done], lambda: garbage.print_total(console, done))
        return int(any(item.result == "failed" for item in done))
    step = context.step(arguments.why) if arguments.why else None
    found = find_garbage(store, policy)
    if step is not None:
        facts = garbage.reasons_json(store, found, step.directory)
        context.say(facts, lambda: garbage.print_reasons(console, facts))
        return 0
    items = [garbage.garbage_json(store, item) for item in (*found.unfinished, *found.garbage)]
    context.say(items, lambda: garbage.print_garbage(console, store, found))
    return 0


def verify(context: Context) -> int:
    """check that committed outputs are unchanged"""
    found = verification.verify_outputs(context.store, context.arguments.pattern)
    values = [verification.verified_json(item) for item in found]
    context.say(values, lambda: verification.print_verified(context.console, context.store, found))
    return int(any(item.damaged for item in found))


def preview_rows(context: Context) -> None:
    """show the tokens of a few rows, and which are trained"""
    from marin_sft.run import preview, preview_request  # imports numpy

    previews = preview_request.read_previews(context.arguments)
    if context.json:
        for row in previews.shown:
            for value in preview.preview_json(row):
                print(json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode())
    else:
        preview.print_previews(make_console(_PROSE), previews)


def fit(context: Context) -> int:
    """whether the trainings of an experiment fit into the memory of their devices"""
    from marin_sft.run import fit as fitting  # loads what training is configured with

    arguments = context.arguments
    prefix = arguments.prefix or default_prefix()
    found = fitting.answers(arguments.script, prefix, arguments.steps, arguments.device, arguments.devices)
    values = [fitting.answer_json(answer) for answer in found]
    context.say(values, lambda: fitting.print_answers(context.console, found))
    return int(any(answer.fits is False for answer in found))


def import_config(context: Context) -> None:
    """an experiment file from a YAML of axolotl, torchtune or LLaMA-Factory"""
    from marin_sft.run.importing import command  # loads the tools' tables

    arguments = context.arguments
    imported = command.write_experiment(arguments.config, arguments.output, arguments.force)
    context.say(command.imported_json(imported), lambda: command.print_imported(context.console, imported))


@wrong_input()
def samples(context: Context) -> None:
    """show the answers of an evaluation, or of two side by side"""
    from marin_sft.run import samples as shown  # loads what evaluation is configured with

    arguments = context.arguments
    found = shown.find_samples(context, [arguments.a, *([arguments.b] if arguments.b else [])], arguments.set)
    show = make_console(_PROSE)
    context.say(shown.samples_json(found, arguments.limit), lambda: shown.print_samples(show, found, arguments.limit))


COMMANDS: dict[str, Callable[[Context], int | None]] = {
    "plan": plan,
    "status": status_of_steps,
    "why": why,
    "path": path,
    "copy": copy,
    "logs": log,
    "diff": diff,
    "runs": runs,
    "report": report,
    "ui": ui,
    "cost": cost.cost,
    "show": planned.show,
    "pin": pin,
    "unpin": unpin,
    "gc": gc,
    "verify": verify,
    "preview": preview_rows,
    "fit": fit,
    "import": import_config,
    "chat": chat,
    "samples": samples,
    "generate": generate,
    "serve-check": serve_check,
    "gguf": write_gguf,
    "jobs": list_jobs,
    "stop": stop,
}
WITHOUT_TORCH = ("chat", "generate", "serve-check", "gguf")
_PROSE = 80  # columns of rows of data, without a terminal
_CLUSTER = "start, look at or check a Ray cluster"


TRAINERS = {
    "sft": "train a model on a file of chats, or with TRL's flags",
    "dpo": "train a model on preferences, or with TRL's flags",
}


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


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> NoReturn:
        import importlib.metadata  # slower than most commands

        print(f"marin-sft {importlib.metadata.version('marin_sft')}")
        sys.exit(0)


def _parse(argv: list[str]) -> argparse.Namespace:
    known = [*TRAINERS, *COMMANDS, "cluster"]
    if argv and not argv[0].startswith("-") and argv[0] not in known:
        raise UserError(f"no command {argv[0]!r}{nearest_text(argv[0], known)}")
    parser = _Parser(
        prog="marin-sft", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, about in TRAINERS.items():
        commands.add_parser(name, help=about)
    parsers = {name: _add_command(commands, name, run) for name, run in COMMANDS.items()}
    cluster = commands.add_parser("cluster", help=_CLUSTER, description=_CLUSTER, allow_abbrev=False)
    of_cluster = cluster.add_subparsers(required=True, metavar="COMMAND")
    add_cluster_flags({name: _add_command(of_cluster, name, run) for name, run in CLUSTER_COMMANDS.items()})
    add_job_flags(parsers)
    add_flags(parsers)
    return parser.parse_args(argv)


def _add_command(
    commands: argparse._SubParsersAction[_Parser], name: str, run: Callable[[Context], int | None]
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=run.__doc__, description=run.__doc__, allow_abbrev=False)
    parser.set_defaults(run=run)
    if run not in (*WITHOUT_STORE, planned.show):
        parser.add_argument(
            "--prefix", type=flags.prefix, help="where outputs are stored (default: $MARIN_SFT_PREFIX, else ./store)"
        )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    parser.add_argument("--debug", action="store_true", help=HELP["debug"])
    return parser


if __name__ == "__main__":
    sys.exit(main())
