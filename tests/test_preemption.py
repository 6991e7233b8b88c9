"""A notice that the machine is taken away."""

import os
import signal
import threading

import pytest

from marin_sft import preemption


@pytest.fixture(autouse=True)
def unwarned(monkeypatch):
    monkeypatch.setattr(preemption, "_notice", threading.Event())


def interrupted_by_sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_first_sigterm_warns_and_the_second_does_what_it_did_before():
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), preemption.told_by_sigterm():
            interrupted_by_sigterm()
            assert preemption.expected()
            interrupted_by_sigterm()
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_sigterm_after_another_warning_does_not_interrupt_yet():
    with preemption.told_by_sigterm():
        preemption.warn()
        interrupted_by_sigterm()
        assert preemption.expected()


def test_outside_the_block_it_does_what_it_did_before():
    before = signal.getsignal(signal.SIGTERM)
    with preemption.told_by_sigterm():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    assert not preemption.expected()


def test_other_threads_cannot_set_a_handler_and_do_without():
    failures = []

    def work() -> None:
        try:
            with preemption.told_by_sigterm():
                pass
        except ValueError as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failures
