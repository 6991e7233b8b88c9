"""Every exception that marin_sft raises on purpose.

    MarinSftError                 base: catch this to catch them all
    |- UserError                  bad input, found before anything ran (exit code 2); also a ValueError
    |  |- ConfigError             an invalid configuration value; names the step and the field
    |  |- GraphError              steps that do not form a valid DAG: cycles, two steps for one path, bad names
    |  |- NoSuchStep              no step under the prefix has this name
    |  `- StoreError              a prefix that cannot be used: unwritable, or without create-exclusive
    |     |- DamagedFile          a file of the engine under it is damaged
    |     `- StoreUnavailable     it does not answer, or refuses; also an OSError
    |- DataError                  rows or files that cannot be turned into tokens
    |- TrainingError              training cannot start or continue
    |- ExportError                an export that would not serve what was trained
    |- PreviousTaskFailedError    a step failed in an earlier launch and --force_run_failed=false
    |- RunFailed                  at least one step of this launch failed (exit code 1)
    |- OutOfMemory                a step was killed for its memory use; not retried
    `- InfrastructureLoss         a worker or a node was lost; retried on its own budget
       `- Preempted               the machine is taken away; what was done is kept

A message says what was got, what was expected, where, and what to do next. So an uncaught `UserError`, e.g. from a step
with a wrong value, ends the script with only the message and the line of the script. `--debug` in the command line also
shows the traceback.
"""

import os
import sys
import sysconfig
import traceback
from types import TracebackType


class MarinSftError(Exception):
    """Base of all errors that marin_sft raises on purpose."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        _install_hook()


class UserError(MarinSftError, ValueError):
    """A mistake of the user, found before anything ran."""


class ConfigError(UserError):
    """An invalid configuration value."""


class GraphError(UserError):
    """Steps that do not form a valid DAG."""


class NoSuchStep(UserError):
    """No step under the prefix has this name."""


class StoreError(UserError):
    """A prefix that cannot hold outputs safely."""


class DamagedFile(StoreError):
    """A file of the engine that is damaged."""


class StoreUnavailable(StoreError, OSError):
    """A store that does not answer despite retries (`silent`), or that refuses. said: its own error message."""

    def __init__(self, text: str, said: str = "", silent: bool = False) -> None:
        super().__init__(text)
        self.said = said
        self.silent = silent


class DataError(MarinSftError):
    """Rows or files that cannot be turned into tokens."""


class TrainingError(MarinSftError):
    """Training cannot start or continue."""


class ExportError(MarinSftError):
    """An export that would not serve what was trained."""


class PreviousTaskFailedError(MarinSftError):
    """A step failed in an earlier launch, and `force_run_failed` is off."""


class RunFailed(MarinSftError):
    """At least one step of this launch failed."""


class OutOfMemory(MarinSftError):
    """A step was killed for its memory use, and would be again."""


class InfrastructureLoss(MarinSftError):
    """A worker or a node was lost. The step's code is not the cause."""


class Preempted(InfrastructureLoss):
    """The machine is taken away. What was done is kept, and the next attempt continues from it."""


def exit_code(error: BaseException) -> int | None:
    """The exit code of a script that ends with this error; None if its message does not explain it."""
    return next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), None)


def debugging() -> bool:
    """Whether to show tracebacks even of errors that explain themselves."""
    return "--debug" in sys.argv


def place_in_script(trace: TracebackType | None) -> str:
    """The last frame in the user's code, "  at file:line: code"; empty if there is none."""
    not_theirs = (os.path.dirname(__file__) + os.sep, *(sysconfig.get_path(n) for n in ("stdlib", "purelib")), "<")
    frames = [f for f in traceback.extract_tb(trace) if not f.filename.startswith(not_theirs)]
    return f"  at {frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""


def _install_hook() -> None:
    """Replace the exception hook of Python, or that of Ray, which calls Python's. Leave any other hook."""
    previous = sys.excepthook
    if previous is not sys.__excepthook__ and not getattr(previous, "__module__", "").startswith("ray."):
        return

    def explain_and_exit(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """The hook for uncaught exceptions. Errors that explain themselves need no traceback through our code."""
        code = exit_code(error)
        if code is None or hasattr(sys, "ps1") or debugging():
            previous(kind, error, trace)
        else:
            places = getattr(error, "__notes__", [place_in_script(trace)])  # the place of an error from another process
            print("\n".join(filter(None, [f"error: {error}", *places])), file=sys.stderr)
        if code is not None and not hasattr(sys, "ps1"):
            sys.exit(code)

    sys.excepthook = explain_and_exit


_EXIT_CODES = {UserError: 2, PreviousTaskFailedError: 2, InfrastructureLoss: 2, RunFailed: 1}
