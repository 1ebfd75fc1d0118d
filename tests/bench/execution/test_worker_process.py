"""A worker that was started ends as it ends, and what a record of its death keeps of its log."""

import fcntl
import os
import resource
import signal

import pytest

from bench.execution import worker_process
from bench.execution.executor import describe_end


def test_one_that_is_stopped_hears_that_it_must_end(tmp_path):
    """It handles the signal, as workers do. Without a handler the system ends it although it is
    stopped."""
    program = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    with (tmp_path / "log").open("w") as log:
        worker = worker_process.StartedWorker(["sh", "-c", program], log, dict(os.environ))
    assert next(worker.lines()) == "ready"
    worker.send_signal(signal.SIGSTOP)
    worker.ask_to_end()

    assert worker.wait(10) == 7
    worker.close()


def test_many_open_files_are_no_limit():
    """`select` takes descriptors up to 1023."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, most[1]), most[1]))
    end, other = os.pipe()
    high = fcntl.fcntl(end, fcntl.F_DUPFD, 1500)
    try:
        assert not worker_process.is_readable(high, 0)
        os.write(other, b"x")
        assert worker_process.is_readable(high, None)
    finally:
        for descriptor in (end, other, high):
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, most)


def test_the_end_of_a_long_log(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_process, "LOG_BYTES", 8)
    (tmp_path / "log").write_text("a long start\nthe end\n")

    assert worker_process.read_end(tmp_path / "log") == "the end\n"
    (tmp_path / "log").write_bytes(b"caf\xff\n")

    assert worker_process.read_end(tmp_path / "log") == "caf\N{REPLACEMENT CHARACTER}\n"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (-9, "killed by SIGKILL, as the system does when memory runs out: run fewer --jobs"),
        (-7, "killed by SIGBUS, as when a disk or shared memory is full"),
        (-40, "killed by signal 40"),
        (3, "ended with code 3"),
    ],
)
def test_an_end_is_described_with_the_name_of_the_signal_and_what_helps(code, said):
    assert describe_end(code).removeprefix("the process ").removeprefix("was ").startswith(said)
