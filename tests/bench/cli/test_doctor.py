"""What doctor says of folders that cannot be written, and of extras."""

import json

import pytest

from bench.cli import doctor
from helpers import plugins, runs


@pytest.fixture
def state_of(tmp_path, monkeypatch, cli):
    """state_of(thing, *arguments) -> its state and detail. No network is asked."""
    runs.own_cache(tmp_path, monkeypatch)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "file").touch()

    def call(thing, *arguments):
        rows = {row["thing"]: row for row in json.loads(cli("doctor", "--json", *arguments)[1])}
        return rows[thing]["state"], rows[thing]["detail"]

    return call


@pytest.mark.parametrize("place", ["file/cache", "of another user/cache"])
def test_a_cache_that_cannot_be_made(tmp_path, monkeypatch, state_of, place):
    """Below a file, and in a folder of another user: root may write everywhere."""
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / place))
    if "another" in place:
        monkeypatch.setattr("os.access", lambda path, *_, **__: path != tmp_path)

    assert state_of("disk") == (
        "unwritable",
        f"{tmp_path / place}: name a new folder in $CAST_BENCH_CACHE",
    )


def test_results_that_cannot_be_made(tmp_path, state_of):
    root = tmp_path / "file/results"

    assert state_of("results", "--results", root) == (
        "unwritable",
        f"{root}: name another folder with --results",
    )


def test_the_hub_is_not_asked_offline(state_of, monkeypatch):
    monkeypatch.setattr(
        "socket.create_connection", lambda *_, **__: pytest.fail("the network was asked")
    )

    assert state_of("hub") == ("off", "not asked, since $HF_HUB_OFFLINE is set")


def test_a_pipe_gets_80_columns(state_of, cli):
    assert max(map(len, cli("doctor")[1].splitlines())) <= 80


def test_extras(monkeypatch, state_of):
    extras = {
        "ray": {"ray": True},
        "onnx": {"onnx": True, "onnxscript": False},
        "hqq": {"hqq": False},
    }
    monkeypatch.setattr(doctor.packages, "extras", lambda: extras)

    assert state_of("extra ray") == ("ok", "")
    assert state_of("extra onnx") == (
        "incomplete",
        "to install onnxscript: pip install 'cast-bench[onnx]'",
    )
    assert state_of("extra hqq") == ("absent", "to install hqq: pip install 'cast-bench[hqq]'")


def test_plug_ins(tmp_path, monkeypatch, state_of):
    plugins.install(tmp_path / "a", "own_method", {"theirs": "pass"})
    runs.distribution(tmp_path / "b", "faulty", "1 / 0", measures={"counts": "faulty:Counts"})
    for folder in ("a", "b"):
        runs.put_on_path(tmp_path / folder, monkeypatch)

    assert state_of("plug-in theirs") == ("ok", "own_method:Theirs")
    assert state_of("plug-in counts")[0] == "broken"
