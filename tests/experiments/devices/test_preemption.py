"""SIGTERM is noted, not obeyed at once; afterwards it means what it meant before."""

import os
import signal
import threading

from experiments.devices.preemption import stop_requests


def test_a_request_is_noted_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests() as requested:
        assert not requested(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert requested(1)
        assert requested(1)  # it does not wear off
    assert signal.getsignal(signal.SIGTERM) is before


def test_only_the_main_thread_may_watch():
    found = []

    def elsewhere():
        with stop_requests() as requested:
            found.append(requested(1))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [False]
