"""Run a command as a job on a Ray cluster, and follow it.

    python marin_sft/run/ray_run.py --env_vars HF_TOKEN -- python experiments/exp808_sft_mixture.py --dry_run

Ships the working directory. The words after `--` are the command, unchanged. The job continues when this process ends.
Exit code: that of the job; 2: nothing was submitted; 130: detached or stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import signal
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from marin_sft.errors import UserError
from marin_sft.execution.flags import path
from marin_sft.execution.ray_environment import asks_for_token, how_to_open, may_be_seen
from marin_sft.execution.resources import TpuPodConfig
from marin_sft.execution.terminal import complain
from marin_sft.machines import named, nearest_types, slice_of
from marin_sft.nearest import did_you_mean
from marin_sft.run.job import Job, check_script, make_job, parse_variables
from marin_sft.run.job_client import connect, follow, forget_secrets, head_is_here, submit
from marin_sft.run.job_packages import requirements_in, requirements_of_extras, words
from marin_sft.run.launcher_file import find_launcher_file, tunnel_to_dashboard
from marin_sft.version import add_version

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_SECOND_CTRL_C = 2.0  # seconds during which another Ctrl-C stops the job


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own flags, and the command after `--`.

    Raises:
        UserError: no command, or an unknown flag. The message repeats no possible secret.
    """
    if not {"-h", "--help", "--version"} & set(argv) and "--" not in argv:
        raise UserError("expected: ray_run [flags] -- python script.py [its flags]; got no --")
    split = argv.index("--") if "--" in argv else len(argv)
    own, command = [_underscored(word) for word in argv[:split]], list(argv[split + 1 :])
    parser = _parser()
    flags, unknown = parser.parse_known_args(own)
    if unknown:
        names = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        hint = did_you_mean(names[0], parser._option_string_actions) if names else ""
        raise UserError(f"unknown {names[0] if names else 'words'} before --{hint or '; see --help'}")
    if not command:
        raise UserError("expected a command after --, e.g. python experiments/quickstart.py")
    return flags, command


def _underscored(word: str) -> str:
    """Ray and Marin write some flags with dashes."""
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}" if word.startswith("--") else word


def _parser() -> _Parser:
    parser = _Parser(prog="ray_run", usage="ray_run [flags] -- command", allow_abbrev=False)
    add_version(parser)
    add = parser.add_argument

    def add_list(*names: str, **options: Any) -> None:
        add(*names, nargs="+", default=[], **options)

    add_list(
        *("--env_vars", "-e"),
        action="append",
        metavar="KEY",
        help="KEY VALUE or KEY=VALUE for the job; a lone KEY copies its value here. Repeatable",
    )
    add("--address", help="the cluster's dashboard or head (default: $RAY_ADDRESS, else `cluster up`'s)")
    add("--cluster", metavar="NAME", help="instead: a file for `ray up`, or the name of one in infra/")
    add(
        "--working_dir",
        type=path,
        default=".",
        help="what to ship, without what .gitignore excludes (default: .)",
    )
    add("--submission_id", help="the job's name (default: script-user-time-hex)")
    add("--debug", action="store_true", help="show the traceback of an error here, too")
    add("--no_wait", action="store_true", help="submit, print the job's name, and exit")
    add("--auto_stop", "--stop_on_interrupt", action="store_true", help="when this command is stopped, so is the job")
    add_list("--extra", action="extend", help="extras of the pyproject.toml in --working_dir to install: a,b")
    add_list("--pip_deps", action="extend", metavar="REQUIREMENT", help="packages to install: 'einops,rich>=13'")
    add_list(
        "--visible_env",
        action="extend",
        metavar="KEY",
        help="of --env_vars, those that users of the cluster may see. Repeatable",
    )
    add("--allow_visible_secrets", action="store_true", help="users of the cluster may see all of --env_vars")
    add("--entrypoint_num_cpus", type=float, metavar="N", help="CPUs to reserve for the command itself")
    add("--entrypoint_num_gpus", type=float, metavar="N", help="its GPUs")
    add("--entrypoint_memory", type=int, metavar="BYTES", help="its memory")
    add("--entrypoint_resources", type=_resources, default={}, metavar="JSON", help='its other resources: {"name": 1}')
    add("--tpu", type=_tpu, default={}, metavar="TYPE", help="its TPU, of one host, such as v4-8")
    return parser


def _resources(text: str) -> dict[str, float]:
    try:
        found = json.loads(text)
        return {str(name): float(amount) for name, amount in found.items()}
    except (ValueError, TypeError, AttributeError):
        raise argparse.ArgumentTypeError(f"""expected JSON such as '{{"name": 1}}', got {text!r}""") from None


def _tpu(text: str) -> dict[str, float]:
    """What a command on a TPU of one host reserves."""
    tpu_type = TpuPodConfig(tpu_type=text).tpu_type
    found = slice_of(tpu_type)
    if found is None:
        near = " or ".join(nearest_types(text))
        expected = near or f"one of {named()} and its cores, such as v4-8"
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    if found.hosts > 1:
        raise argparse.ArgumentTypeError(
            f"{text} has {found.hosts} hosts, but a job's command runs on one; omit it, and let the step ask for the "
            f'slice: resources=TpuPodConfig(tpu_type="{text}")'
        )
    return {f"TPU-{tpu_type}-head": 1, "TPU": found.chips}


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process of a shell would ignore it
    try:
        flags, command = parse(sys.argv[1:] if argv is None else argv)
        check_script(command, flags.working_dir)
        with _address(flags) as address:
            return _run(flags, command, address)
    except UserError as error:
        return complain(error, 2)


@contextlib.contextmanager
def _address(flags: argparse.Namespace) -> Iterator[str | None]:
    """Inside the block, the address of the cluster; None: the default."""
    if flags.cluster is None:
        yield flags.address
    elif flags.address is not None:
        raise UserError("--cluster and --address: expected one of them")
    elif ":" in flags.cluster:
        yield flags.cluster
    else:
        with tunnel_to_dashboard(find_launcher_file(flags.cluster)) as url:
            yield url


def _run(flags: argparse.Namespace, command: Sequence[str], address: str | None) -> int:
    variables = parse_variables(flags.env_vars)
    visible = _visible(flags, variables)
    packages = [*requirements_of_extras(flags.working_dir, words(flags.extra)), *_requirements(flags)]
    client = connect(address)
    job = make_job(
        command,
        variables,
        flags.working_dir,
        here=head_is_here(client),
        submission_id=flags.submission_id,
        visible=visible,
        launcher=_launcher(
            flags, {n: value for n, value in variables.items() if n in visible or may_be_seen(n, value)}
        ),
        packages=packages,
        reserved=_reserved(flags),
    )
    submit(client, job)
    print(_where(client.get_address(), job.submission_id), flush=True)
    if flags.no_wait:
        return 0
    if flags.auto_stop:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
    try:
        code = follow(client, job.submission_id, job.entrypoint)
    except KeyboardInterrupt:
        return _detach(client, job, flags.auto_stop)
    except (OSError, RuntimeError) as error:
        return complain(f"the cluster no longer answers; job {job.submission_id} may still be running: {error}", 1)
    forget_secrets(client, job.secrets_key)
    return code


def _where(address: str, submission_id: str) -> str:
    """One line."""
    way = f"  (to open it: {how_to_open(address)} {shlex.quote(submission_id)})" if asks_for_token() else ""
    return f"Job {submission_id}: {address}/#/jobs/{submission_id}{way}"


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _requirements(flags: argparse.Namespace) -> list[str]:
    return [requirement for text in flags.pip_deps for requirement in requirements_in(text)]


def _reserved(flags: argparse.Namespace) -> dict[str, Any]:
    """Raises UserError for what is asked for twice."""
    if twice := flags.tpu.keys() & flags.entrypoint_resources:
        raise UserError(f"--tpu and --entrypoint_resources: both ask for {min(twice)}")
    names = ("entrypoint_num_cpus", "entrypoint_num_gpus", "entrypoint_memory")
    reserved = {name: getattr(flags, name) for name in names if getattr(flags, name) is not None}
    resources = {**flags.entrypoint_resources, **flags.tpu}
    return {**reserved, "entrypoint_resources": resources} if resources else reserved


def _launcher(flags: argparse.Namespace, shown: Mapping[str, str]) -> str:
    """The words to put before the job's command to submit it again. shown: the variables whose values may be seen."""
    given = [("--address", flags.address), ("--cluster", flags.cluster)]
    given += [("--working_dir", flags.working_dir if flags.working_dir != "." else None)]
    for variable in flags.env_vars:
        name, equals, _ = variable[0].partition("=")
        has_value = name in shown and (equals or len(variable) > 1)
        given.append(("--env_vars", f"{name}={shown[name]}" if has_value else name))
    given += [("--extra", name) for name in flags.extra] + [("--pip_deps", text) for text in flags.pip_deps]
    given += [(f"--{name}", json.dumps(amount)) for name, amount in _reserved(flags).items()]
    kept = [word for name, value in given if value is not None for word in (name, value)]
    visible = ["--visible_env", *flags.visible_env] if flags.visible_env else []
    everything = ["--allow_visible_secrets"] if flags.allow_visible_secrets else []
    return shlex.join(["python", sys.argv[0], *kept, *visible, *everything, "--"])


def _visible(flags: argparse.Namespace, variables: Mapping[str, str]) -> Collection[str]:
    """Raises UserError for a name that is not a variable of the job."""
    if unknown := sorted(set(flags.visible_env) - variables.keys()):
        raise UserError(f"--visible_env {unknown[0]}: expected a variable named in --env_vars")
    return variables if flags.allow_visible_secrets else flags.visible_env


def _detach(client: JobSubmissionClient, job: Job, stop: bool) -> int:
    address = shlex.quote(client.get_address())
    name = shlex.quote(job.submission_id)
    if not stop:
        print(
            f"\nThe job continues.\n  follow it: marin-sft logs -f --address {address} {name}\n"
            f"  stop it:   marin-sft stop --address {address} {name}\n"
            f"or press Ctrl-C again within {_SECOND_CTRL_C:g} seconds to stop it.",
            file=sys.stderr,
            flush=True,
        )
        try:
            time.sleep(_SECOND_CTRL_C)
        except KeyboardInterrupt:
            stop = True
    if stop:
        client.stop_job(job.submission_id)
        print(f"\nStopping job {job.submission_id}.", file=sys.stderr)
        forget_secrets(client, job.secrets_key)
    return 130


if __name__ == "__main__":
    sys.exit(main())
