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

from marin_sft.errors import MarinSftError, UserError
from marin_sft.execution.catalog import read_catalog, step_name
from marin_sft.execution.console import make_console
from marin_sft.execution.flags import default_prefix
from marin_sft.execution.terminal import complain, early_end_allowed, visible, write_log
from marin_sft.run import status
from marin_sft.run.answer_commands import chat, generate
from marin_sft.run.command_parser import TRAINERS, make_parser, parse
from marin_sft.run.context import Context, wrong_input
from marin_sft.run.server_commands import serve_check, write_gguf
from marin_sft.run.training_commands import train

# What only some commands need is imported by them: a command starts in 0.2 s.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks, see `completion`
        from marin_sft.run.completion import answer

        answer(lambda wanted: make_parser(wanted, str(__doc__), COMMANDS))
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and words and words[0] in WITHOUT_TORCH:  # in a process of its own
        os.environ.setdefault("USE_TORCH", "0")  # transformers would import it where it is installed
    if words and words[0] in TRAINERS:
        return train(words[0], words[1:])
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


def _parse(words: list[str]) -> argparse.Namespace:
    return parse(words, str(__doc__), COMMANDS)


def plan(context: Context) -> int | None:
    """show what a script would run, and why; the script's flags follow it"""
    arguments = context.arguments
    script = arguments.script
    if not os.path.isfile(script):
        raise UserError(f"plan: expected the file of an experiment, got {script!r}, which does not exist")
    prefix = ["--prefix", arguments.prefix] if arguments.prefix else []
    from marin_sft.run.script import run_script

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


def watch(context: Context) -> None:
    """show a launch live on the whole terminal: steps, progress, logs"""
    from marin_sft.run.watch import command

    command.watch(context)


def why(context: Context) -> None:
    """explain why a step last ran or was cached"""
    from marin_sft.run import explanation

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
    from marin_sft.execution.tables import counted
    from marin_sft.run import copying

    arguments = context.arguments
    names = copying.copy_output(context, arguments.step, arguments.directory)
    facts = {"directory": os.path.abspath(arguments.directory), "files": names}
    context.say(facts, lambda: context.console.print(f"{counted(len(names), 'file')} in {facts['directory']}"))


def log(context: Context) -> int | None:
    """print the output of a step's newest attempt, or of a job"""
    from marin_sft.run import logs
    from marin_sft.run.cluster_commands import log_of_job
    from marin_sft.run.job_client import known_address
    from marin_sft.run.jobs import looks_like_a_job

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
    from marin_sft.run import explanation

    old, new = context.step(context.arguments.old), context.step(context.arguments.new)
    payloads = [explanation.payload_of_step(context.store, found) for found in (old, new)]
    found = explanation.differences(context.store, *payloads)
    context.say(found, lambda: explanation.print_differences(context.console, old.directory, new.directory, found))


def runs(context: Context) -> None:
    """list launches, or show one in detail"""
    from marin_sft.run import launches

    store, console = context.store, context.console
    if context.arguments.run_name is None:
        found = launches.summaries(store, context.arguments.limit)
        context.say(found, lambda: launches.print_summaries(console, store, found))
        return
    facts = launches.details(store, launches.find_launch(store, context.arguments.run_name))
    context.say(facts, lambda: launches.print_details(console, facts))


def report(context: Context) -> None:
    """write a page about launches, steps or an experiment: one file to open in a browser"""
    from marin_sft.execution.prices import read_prices
    from marin_sft.run.report import command

    arguments = context.arguments
    found = command.report_contents(context.store, arguments.subjects, read_prices(arguments.prices))
    context.say(found, lambda: context.console.print(command.write_report(found, arguments.output)))


def ui(context: Context) -> None:
    """show the same pages live in a browser on this machine"""
    from marin_sft.execution.prices import read_prices
    from marin_sft.run.report.server import serve

    serve(context.store, context.arguments.port, read_prices(context.arguments.prices))


def pin(context: Context) -> None:
    """protect a step from gc"""
    from marin_sft.execution.pins import pin_step

    made = pin_step(context.store, context.step(context.arguments.step).directory, context.arguments.note)
    context.say(asdict(made), lambda: context.console.print(f"pinned {made.directory}"))


def unpin(context: Context) -> int:
    """remove a pin"""
    from marin_sft.execution.pins import unpin_step

    directory = context.step(context.arguments.step).directory
    was = unpin_step(context.store, directory)
    text = f"unpinned {directory}" if was else f"{directory} was not pinned"
    context.say({"directory": directory, "was_pinned": was}, lambda: context.console.print(text))
    return 0


def gc(context: Context) -> int:
    """list what no launch, pin or claim keeps; remove it with --delete"""
    from marin_sft.execution.gc import collect_garbage
    from marin_sft.execution.reachability import GcPolicy, find_garbage
    from marin_sft.run import garbage

    arguments, store, console = context.arguments, context.store, context.console
    policy = GcPolicy(arguments.keep_runs, arguments.keep_days, arguments.grace_hours)
    if arguments.delete and not arguments.why:
        from marin_sft.trainers.memory import remove_abandoned

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
    from marin_sft.run import verification

    found = verification.verify_outputs(context.store, context.arguments.pattern)
    values = [verification.verified_json(item) for item in found]
    context.say(values, lambda: verification.print_verified(context.console, context.store, found))
    return int(any(item.damaged for item in found))


def preview_rows(context: Context) -> None:
    """show the tokens of a few rows, and which are trained"""
    from marin_sft.run import preview, preview_request

    previews = preview_request.read_previews(context.arguments)
    if context.json:
        for row in previews.shown:
            for value in preview.preview_json(row):
                print(json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace").decode())
    else:
        preview.print_previews(make_console(_PROSE), previews)


def lint(context: Context) -> None:
    """look for what is wrong with rows: copies, broken tool calls, leaked test prompts"""
    from marin_sft.run import lint as linting  # imports numpy

    linting.lint_rows(context)


def fit(context: Context) -> int:
    """whether the trainings of an experiment fit into the memory of their devices"""
    from marin_sft.run import fit as fitting

    arguments = context.arguments
    prefix = arguments.prefix or default_prefix()
    found = fitting.answers(arguments.script, prefix, arguments.steps, arguments.device, arguments.devices)
    values = [fitting.answer_json(answer) for answer in found]
    context.say(values, lambda: fitting.print_answers(context.console, found))
    return int(any(answer.fits is False for answer in found))


def import_config(context: Context) -> None:
    """an experiment file from a YAML of axolotl, torchtune or LLaMA-Factory"""
    from marin_sft.run.importing import command

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


def cost(context: Context) -> None:
    """what launches really spent, failed and lost attempts included"""
    from marin_sft.run.cost import print_cost

    print_cost(context)


def show(context: Context) -> None:
    """show a plan that --plan_out wrote"""
    from marin_sft.run.planned import show_plan

    show_plan(context)


def completion(context: Context) -> None:
    """print what lets bash, zsh or fish complete commands, flags, steps and runs"""
    from marin_sft.run.completion import script

    print(script(context.arguments.shell))


def dashboard(context: Context) -> None:
    """open Ray's dashboard, or a job in it, with its token: prints a link for a browser"""
    from marin_sft.run.cluster_commands import open_dashboard

    open_dashboard(context)


def jobs(context: Context) -> None:
    """list the jobs of a Ray cluster, the newest first"""
    from marin_sft.run.cluster_commands import list_jobs

    list_jobs(context)


def stop(context: Context) -> int:
    """stop a job of a Ray cluster; its launch releases its steps"""
    from marin_sft.run.cluster_commands import stop_job

    return stop_job(context)


COMMANDS: dict[str, Callable[[Context], int | None]] = {
    "plan": plan,
    "status": status_of_steps,
    "watch": watch,
    "why": why,
    "path": path,
    "copy": copy,
    "logs": log,
    "diff": diff,
    "runs": runs,
    "report": report,
    "ui": ui,
    "cost": cost,
    "show": show,
    "pin": pin,
    "unpin": unpin,
    "gc": gc,
    "verify": verify,
    "preview": preview_rows,
    "lint": lint,
    "fit": fit,
    "import": import_config,
    "chat": chat,
    "samples": samples,
    "generate": generate,
    "serve-check": serve_check,
    "gguf": write_gguf,
    "completion": completion,
    "dashboard": dashboard,
    "jobs": jobs,
    "stop": stop,
}
WITHOUT_TORCH = ("chat", "generate", "serve-check", "lint", "gguf")
_PROSE = 80  # columns of rows of data, without a terminal


if __name__ == "__main__":
    sys.exit(main())
