"""Results folders of several machines, joined."""

import pytest
from filelock import FileLock

from bench.comparing.result_arguments import read
from bench.results.run_status import RunStatus, lock_of, write_status
from bench.results.store import ReadOnlyStore
from helpers import fake_records

pytestmark = pytest.mark.usefixtures("cache")


def test_records_and_scores_are_taken_once(tmp_path, cli, output):
    a, b, c = (tmp_path / n for n in "abc")
    fake_records.perplexity(a, method="x")
    fake_records.failed(a, method="y")
    fake_records.perplexity(b, method="y")
    fake_records.perplexity(b, 0.1, method="x")  # another number under the same key

    said = output("merge", a, b, "--results", c)
    assert said.startswith("3 records copied, 0 already there, 1 not copied: ")
    side = read(c)
    assert {r.identity.method: r.status for r in side.records} == {"x": "ok", "y": "ok"}
    first = next(r for r in side.records if r.identity.method == "x")
    assert first.readings == next(r for r in ReadOnlyStore(a) if r.identity.method == "x").readings
    assert all(len(side.items(r).ids) == 120 for r in side.records)
    assert cli("merge", a, "--results", c)[1].startswith("0 records copied")


def test_other_scores_are_refused(tmp_path, refused):
    found = fake_records.perplexity(tmp_path / "a")
    (tmp_path / "a/items" / found.items.file).write_bytes(b"x" * found.items.size)
    assert "checksum mismatch" in refused("merge", tmp_path / "a", "--results", tmp_path / "c")
    assert not list((tmp_path / "c/records").iterdir())


def test_a_folder_that_a_run_writes_is_not_merged_into(tmp_path, cli):
    a, b = tmp_path / "a", tmp_path / "b"
    fake_records.perplexity(a)
    write_status(b, RunStatus(name="n", code="0", host="h", executor="local", started=0, updated=0))
    with FileLock(lock_of(b, "n")):
        code, _, err = cli("merge", a, "--results", b)
    assert code == 2 and f"a run is writing into '{b}': wait until it ends" in err
    assert not (b / "records").exists()
    assert cli("merge", a, "--results", b)[1].startswith("1 record copied")
