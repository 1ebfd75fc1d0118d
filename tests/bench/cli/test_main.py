"""What the command line says of faults that no command looked at."""

import errno
import os
import subprocess
import sys

import pytest

from bench.cli import main as command_line


def fail(monkeypatch, path, number=errno.ENOENT):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), path and str(path))

    monkeypatch.setattr(command_line, "app", refuse)


@pytest.mark.parametrize("named", ["argument", "option", "list", "variable", "current folder"])
def test_a_path_that_was_named_is_a_sentence(cli, monkeypatch, tmp_path, named):
    words = {"argument": [str(tmp_path)], "option": [f"--out={tmp_path}/x"], "list": [f"a,{tmp_path}/x"]}.get(named, [])
    if named == "variable":
        monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path))
    if named == "current folder":
        monkeypatch.chdir(tmp_path)
    fail(monkeypatch, tmp_path / "x/y")
    code, _, err = cli("report", *words)

    assert code == 2
    assert err == f"bench: {str(tmp_path / 'x/y')!r} cannot be used (No such file or directory): check the path\n"


@pytest.mark.parametrize(("path", "number"), [("/elsewhere/x", errno.ENOENT), (None, errno.ENOENT), (".", errno.EIO)])
def test_any_other_fault_keeps_its_traceback(cli, monkeypatch, tmp_path, path, number):
    monkeypatch.chdir(tmp_path)
    fail(monkeypatch, path, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        cli("report", str(tmp_path))


@pytest.mark.parametrize("command", ["ls models", "ls models --json", "--help"])
def test_output_that_nobody_reads_is_no_verdict(command):
    """Exit code 1 would be that of a gate that failed."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "bench", *command.split()], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)

    assert (done.returncode, done.stderr) == (141, b"")
