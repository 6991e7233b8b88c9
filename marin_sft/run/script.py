"""The file of an experiment, run by a command of `marin-sft`."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from typing import Any

from marin_sft.errors import MarinSftError, UserError


def run_script(script: str, run_name: str) -> dict[str, Any]:
    """Run a file as `python SCRIPT` does, and return its variables. run_name: what `__name__` is in it.

    Raises:
        UserError: it is not Python, or it raises an error that is not ours; with the frames of its own code.
    """
    sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
    try:
        return runpy.run_path(script, run_name=run_name)
    except MarinSftError:
        raise
    except SyntaxError as error:  # of the file, or of a module that it imports
        raise UserError(f"{script} cannot be read\n{_text(traceback.format_exception_only(error))}") from error
    except Exception as error:
        raise UserError(f"{script} failed\n{_text(_from_script(error, script))}") from error


def _from_script(error: Exception, script: str) -> list[str]:
    """The traceback of an error, from the first frame in the script on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    return traceback.format_exception(error.with_traceback(trace) if trace else error, limit=None if trace else 0)


def _text(lines: list[str]) -> str:
    return "".join(lines).rstrip()
