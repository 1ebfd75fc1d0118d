"""A signal ends a process at once, or a training after its step."""

import signal

import pytest

from methods.workshop.training.interrupt import Stopped, StopRequest


def test_a_signal_ends_a_process_at_once_but_for_the_first_of_a_training():
    with pytest.raises(Stopped):
        StopRequest().receive(signal.SIGTERM)
    request = StopRequest()
    assert not request()
    request.receive(signal.SIGTERM)
    assert request()

    with pytest.raises(Stopped):
        request.receive(signal.SIGTERM)
    with pytest.raises(Stopped):  # a signal at the end of a training is not lost
        request.release()
