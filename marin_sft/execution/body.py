"""Runs the body of a step in this process, and tells the ways in which it can end apart."""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn

from marin_sft import progress
from marin_sft.errors import InfrastructureLoss, MarinSftError
from marin_sft.execution.identity import Payload, changed_code
from marin_sft.execution.signals import interrupts_noted, sigterm_as_interrupt
from marin_sft.execution.step_state import Failure, write_failure
from marin_sft.execution.store import Store
from marin_sft.execution.terminal import visible
from marin_sft.redaction import redacted


def run_body(fn: Callable[[Any], object], config: object, *listeners: progress.Listener) -> Failure | None:
    """Run `fn(config)`. Returns its exception as a failure. listeners: get its progress reports.

    Raises:
        InfrastructureLoss: raised by the body, which was not the cause.
        KeyboardInterrupt: the process was interrupted, by a signal.
    """
    try:
        with interrupts_noted() as by_signal, progress.listening(*listeners):
            fn(config)
    except InfrastructureLoss:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and by_signal(error):
            raise
        # Our own errors explain themselves, and the failure's record has the location.
        said = f"{type(error).__name__}: {error}" if isinstance(error, MarinSftError) else traceback.format_exc()
        print(visible(said.rstrip("\n")), file=sys.stderr)
        location = _user_location(error.__traceback__)
        return Failure(
            error=_first_lines(redacted(f"{type(error).__name__}: {error}".removesuffix(": "))),
            location=location and redacted(location),
            traceback=redacted(traceback.format_exc()),
        )
    return None


def changed_source(config: object, payload: Payload) -> Failure | None:
    """A failure if the source of functions in the config, as this process imported it, differs from the plan's."""
    changed = changed_code(config, payload)
    if not changed:
        return None
    return not_committed(
        f"{', '.join(changed)}: the source has changed since the plan was made, so nothing is committed. Run the "
        "command again to run the step with the current code"
    )


def not_committed(error: str) -> Failure:
    print(error, file=sys.stderr)
    return Failure(error, None, "", resumable=False)


@contextlib.contextmanager
def exits(store: Store, directory: str, claim: int) -> Iterator[None]:
    """Distinguish the ways in which a body can exit.

    SIGTERM raises KeyboardInterrupt; on Ray it would look like a `sys.exit` of the body. `os._exit` records a failure;
    otherwise it would look like a lost worker and be retried.
    """
    leave, owner = os._exit, os.getpid()

    def leave_on_record(status: int) -> NoReturn:
        if os.getpid() == owner and threading.current_thread() is threading.main_thread():
            caller = traceback.extract_stack()[-2]
            failure = Failure(f"os._exit({status}) in the body", _location(caller), "".join(traceback.format_stack()))
            write_failure(store, directory, claim, failure)
            sys.stdout.flush()
        leave(status)

    with sigterm_as_interrupt():
        os._exit = leave_on_record
        try:
            yield
        finally:
            os._exit = leave


def _user_location(trace: TracebackType | None) -> str | None:
    """The last frame outside the engine and installed libraries; the very last one if there is none."""
    frames = traceback.extract_tb(trace)
    engine = os.path.dirname(__file__)
    libraries = tuple(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib"))
    own = [f for f in frames if not f.filename.startswith((engine, *libraries, "<"))]
    if not frames:
        return None
    return _location((own or frames)[-1])


def _location(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"


def _first_lines(text: str, limit: int = 2000) -> str:
    return text if len(text) <= limit else text[:limit] + " ..."
