"""Readers of other packages."""

import shutil
import sys

import pytest

from bench.catalog import registry
from bench.formats import checkpoint
from bench.formats.opening import content_digest
from helpers import runs

HALVED = """
from bench.formats.contract import Checkpoint, Reader
from methods.model.folder import Folder

FACTOR = 2


class HalvedCheckpoint(Checkpoint):
    form = "halved"

    def tensor(self, name):
        return FACTOR * self.folder.tensor(name)


class Halved(Reader):
    "Weights that are stored halved."

    def owns(self, path):
        return (path / "halved.txt").exists()

    def open(self, path, original):
        return HalvedCheckpoint(Folder(path))
"""


def install(tmp_path, monkeypatch, source, **names):
    shutil.rmtree(tmp_path / "site", ignore_errors=True)
    runs.distribution(
        tmp_path / "site", "halved", source, readers=names or {"halved": "halved:Halved"}
    )
    monkeypatch.delitem(sys.modules, "halved", raising=False)
    runs.put_on_path(tmp_path / "site", monkeypatch)


@pytest.fixture
def halved(tmp_path, monkeypatch):
    """A pruned model in a format that only another package reads, which is installed."""
    folder = runs.prune(runs.tiny(tmp_path / "m"))
    (folder / "halved.txt").touch()
    install(tmp_path, monkeypatch, HALVED)
    yield folder
    monkeypatch.undo()
    runs.forget()


@pytest.mark.parts("folders")
def test_a_model_is_measured_as_its_reader_reads_it(halved, tmp_path):
    label = f"folder:path={halved}"
    got = runs.measured(tmp_path / "r", only=(label,), methods=(label,), measures=("size",))
    (record,) = [r for r in got.values() if r.notes.get("format") == "halved"]

    assert record.identity.pattern == "2:4"
    assert "model.norm.weight" in record.notes["differences"]["tensors_changed"], (
        "it is twice the original's"
    )


@pytest.mark.parts("folders")
def test_verify_reads_it_and_says_a_fault_in_one_sentence(
    halved, tmp_path, monkeypatch, output, refused
):
    output("verify", halved)
    install(tmp_path, monkeypatch, HALVED.replace("FACTOR *", "1 / 0 *"))
    said = (
        "plug-in 'halved:Halved' cannot be used (ZeroDivisionError: division by zero, halved.py "
        "line 12)"
    )
    assert said in refused("verify", halved)
    assert said in refused("plan", "--methods", f"folder:path={halved}")


def test_its_files_and_its_code_are_in_the_key(halved, tmp_path, monkeypatch):
    digest = content_digest(halved)
    (halved / "halved.txt").write_text("other")
    other = content_digest(halved)
    install(tmp_path, monkeypatch, HALVED.replace("FACTOR = 2", "FACTOR = 3"))
    assert len({digest, other, content_digest(halved)}) == 3
    (halved / "halved.txt").unlink()
    assert content_digest(halved) == checkpoint.content_digest(halved)


def test_ours_are_asked_first_and_a_taken_name_is_ignored(halved, tmp_path, monkeypatch, output):
    everything = HALVED.replace('(path / "halved.txt").exists()', "1 / 0")
    install(tmp_path, monkeypatch, everything, stored="halved:Halved")
    output("verify", halved)
    found = registry.ignored("readers")
    assert found == [("stored", "the name is built in: rename it in the package's entry points")]
