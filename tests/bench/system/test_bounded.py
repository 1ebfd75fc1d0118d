"""Bounds on work with files from outside."""

import os
import resource
import signal
import time

import psutil
import pytest

from bench.system.bounded import OutOfBounds, bounded_memory, call_bounded

ENDINGS = {
    "memory": (lambda: len(bytearray(2**30)), "more than 134,217,728 bytes of memory"),
    "abort": (os.abort, "ends its process"),
    "time": (lambda: any(iter(int, 1)), "more than 1 seconds"),
    "fault": (lambda: int("x"), "invalid literal"),
}


@pytest.mark.parametrize(("work", "said"), ENDINGS.values(), ids=ENDINGS)
def test_work_ends_in_one_sentence(work, said):
    with pytest.raises(OutOfBounds, match=said):
        call_bounded(work, 2**27, 1)


def test_the_answer_comes_back_and_nothing_stays():
    before = psutil.Process().children()
    answer = {"a": [1, None, "x" * 10**6]}
    assert call_bounded(lambda: answer, 2**27, 9) == answer
    assert psutil.Process().children() == before


def test_the_limit_of_this_process_is_put_back_and_never_raised():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with bounded_memory(2**27), pytest.raises(MemoryError):
        bytearray(2**30)
    with bounded_memory(2**27), bounded_memory(2**40), pytest.raises(MemoryError):
        bytearray(2**30)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_an_interrupt_ends_the_work(tmp_path):
    def work():
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(60)

    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    with pytest.raises(KeyboardInterrupt):
        call_bounded(work, 2**27, 9)
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text()}")
