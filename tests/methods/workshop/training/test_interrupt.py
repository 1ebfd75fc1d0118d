"""A signal ends a process at once, or a training after its step."""

import signal

import pytest

from methods.workshop.training.interrupt import Stopped, StopRequest


def test_where_no_training_asks_a_signal_ends_the_process_at_once():
    request = StopRequest()
    with pytest.raises(Stopped):
        request.receive(signal.SIGTERM)


def test_a_second_signal_ends_a_training_at_once():
    request = StopRequest()
    assert not request()
    request.receive(signal.SIGTERM)
    assert request()

    with pytest.raises(Stopped):
        request.receive(signal.SIGTERM)


def test_a_signal_at_the_end_of_a_training_is_not_lost():
    request = StopRequest()
    request()
    request.receive(signal.SIGTERM)

    with pytest.raises(Stopped):
        request.release()
