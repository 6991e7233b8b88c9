"""How a body ends: its own exceptions are failures, those of a signal are not."""

import os
import signal
import threading

import pytest

from marin_sft.errors import InfrastructureLoss
from marin_sft.execution.body import run_body
from marin_sft.execution.signals import Terminated, sigterm_as_interrupt


def raises(error):
    raise error


def sent(number):
    os.kill(os.getpid(), number)
    signal.pause()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit("x"), SystemExit(3), BaseException("x")])
def test_what_a_body_raises_is_a_failure_with_its_traceback(error):
    before = signal.getsignal(signal.SIGINT)
    failure = run_body(raises, error)
    assert failure.error == f"{type(error).__name__}: {error}".removesuffix(": ")
    assert "in raises" in failure.location and "raise error" in failure.traceback
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_is_no_failure(number, kind):
    before = signal.getsignal(signal.SIGINT)
    with sigterm_as_interrupt(), pytest.raises(kind):
        run_body(sent, number)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_of_the_body_may_raise_too():
    before = signal.getsignal(signal.SIGINT)

    def body(number):
        signal.signal(number, lambda *_: raises(KeyboardInterrupt()))
        sent(number)

    with pytest.raises(KeyboardInterrupt):
        run_body(body, signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_loss_is_no_failure():
    with pytest.raises(InfrastructureLoss):
        run_body(raises, InfrastructureLoss("x"))


def test_in_another_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(run_body(raises, KeyboardInterrupt())))
    thread.start()
    thread.join()
    assert found[0].error == "KeyboardInterrupt"
