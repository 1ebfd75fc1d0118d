"""Odd surroundings: odd names, no HOME, a strict umask, a cache that cannot be written."""

import shlex

import pytest

from helpers import runs

RUN = (
    "--methods", "magnitude", "--quant", "none", "--measures", "size", "--device", "cpu",
    "--set", "threads=1",
)  # fmt: skip


def test_names_with_spaces_quotes_and_other_scripts(tmp_path, cli, output, cache, monkeypatch):
    """The command that a run prints works as it is, and runs nothing else."""
    home = tmp_path / "a b'c\"漢字"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("CAST_BENCH_CACHE", str(home / "the cache"))
    runs.workers_here(monkeypatch)

    out = output("run", *RUN, "--results", "r $(touch x) `touch x` 漢")
    printed = [line for line in out.splitlines() if line.startswith("All columns: ")]
    command = printed[0].partition(": ")[2]
    assert shlex.split(command)[-3] == "r $(touch x) `touch x` 漢"
    assert "magnitude" in cli(*shlex.split(command)[1:])[1]

    prune = ("prune", "--method", "magnitude", "--model")
    assert cli(*prune, "tiny", "--out", "o 'ut", "--device", "cpu")[0] == 0
    assert cli("export", "o 'ut", "--format", "packed24", "--out", "p 漢")[0] == 0
    assert cli("verify", "p 漢")[0] == 0
    err = cli(*prune, "p 漢", "--out", "again")[2]
    command = "bench " + err.partition("first with bench ")[2].strip().replace("DIR", "dense")
    assert cli(*shlex.split(command)[1:])[0] == 0 and (home / "dense/model.safetensors").exists()


@pytest.mark.parametrize("command", [("run", *RUN), ("cache", "gc")])
def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path, refused, monkeypatch, command):
    """Below a file, where not even root can make a folder."""
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / "file/cache"))
    err = refused(*command)
    assert f"{tmp_path / 'file/cache'}' cannot be written" in err and "$CAST_BENCH_CACHE" in err
