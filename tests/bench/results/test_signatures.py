"""Signed records: who signed which, and that a change after the signature is not covered by it."""

import json
import shutil
import subprocess

import pytest

from bench.results.store import ReadOnlyStore
from helpers import fake_records

pytestmark = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="OpenSSH is not installed"
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Private keys of alice and bob, and a file that allows each alone."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("alice", "bob"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name]
        subprocess.run(make, check=True)
        (folder / f"{name}.allowed").write_text(
            f"{name}@example.org {(folder / f'{name}.pub').read_text()}"
        )
    return folder


@pytest.fixture
def root(tmp_path):
    fake_records.perplexity(tmp_path / "r")
    fake_records.accuracy(tmp_path / "r")
    return tmp_path / "r"


def test_signed_records_keep_their_signer_until_they_change(root, keys, tmp_path, cli, output):
    assert output("sign", root, "--key", keys / "alice").endswith(": 2 records signed\n")

    assert cli("merge", root, "--results", tmp_path / "merged")[0] == 0
    for folder in (root, tmp_path / "merged"):
        said = output("check", folder, "--signed-by", keys / "alice.allowed")
        assert "2 records signed by alice@example.org" in said

    code, out, err = cli("check", root, "--signed-by", keys / "bob.allowed")
    assert code == 1
    assert out.count("unsigned: ") == 2
    assert "no signer in bob.allowed has signed it" in err

    path = next((root / "records").glob("*.json"))
    fake_records.edit(path, seal=True, notes={"edited": True})
    code, out, _ = cli("check", root, "--signed-by", keys / "alice.allowed")
    assert (code, out.count("1 record signed by alice@example.org")) == (1, 1)
    assert f"unsigned: {path}" in out


def test_what_agrees_with_itself_is_invented_all_the_same(root, keys, cli, output):
    """Only a signature tells invented items, or a later time than is true, from measured ones:
    their digests are fresh."""
    cli("sign", root, "--key", keys / "alice")
    fake_records.perplexity(root, loss=-0.5)  # in place of the signed one
    later = {"recorded": "2099-01-01T00:00:00Z"}
    fake_records.accuracy(root, gained=100, made="later", provenance=later)
    assert ": 3 records read, 0 problems" in output("check", root)
    rows = json.loads(output("report", "--results", root, "--format", "json"))
    assert {row["metric"]: row["value"] for row in rows}["acc"] == 0.6  # it counts as the newest
    code, out, _ = cli("check", root, "--signed-by", keys / "alice.allowed")
    assert (code, out.count("unsigned: "), out.count("1 record signed by")) == (1, 2, 1)


def test_rows_name_who_signed_their_records(root, keys, tmp_path, cli, output):
    cli("sign", root, "--key", keys / "alice")
    fake_records.perplexity(root, method="sparsegpt")
    fake_records.accuracy(root, method="sparsegpt", protocol="arc_easy@1.0")
    cli("sign", root, "--key", keys / "bob")
    fake_records.accuracy(root, method="sparsegpt")
    fake_records.perplexity(root, method="magnitude")
    line = ("report", "--results", root, "--signed-by", keys / "both.allowed")
    allowed = [(keys / f"{name}.allowed").read_text() for name in ("alice", "bob")]
    (keys / "both.allowed").write_text("".join(allowed))

    both, some = "alice@example.org, bob@example.org", "bob@example.org (2 of 3 records)"
    rows = json.loads(output(*line, "--format", "json"))
    assert {(row["method"], row["signed_by"]) for row in rows} == {
        ("wanda", both), ("sparsegpt", "bob@example.org"), ("sparsegpt", ""), ("magnitude", ""),
    }  # fmt: skip
    out = output(*line, "--format", "md")
    assert "signed by" in out and both in out and some in out and "unsigned" in out

    output(*line, "--out", tmp_path / "page")
    page, about, text, csv = (
        (tmp_path / f"page/leaderboard{end}").read_text()
        for end in (".html", "-tiny.html", ".md", ".csv")
    )
    for name in (both, some, "unsigned"):
        assert f'<td class="label">{name}</td>' in page and f"| {name} |" in text
    assert "4 signed" in about and csv.count(",signed_by,folder,") == 1 and f'"{both}"' in csv


def test_an_edited_list_is_signed_by_nobody(root, keys, cli):
    cli("sign", root, "--key", keys / "alice")
    (listed,) = (root / "signatures").glob("*.txt")
    listed.write_text(listed.read_text().replace("1", "2"))
    code, _, err = cli("check", root, "--signed-by", keys / "alice.allowed")
    assert code == 1 and "its signature by alice@example.org is not valid" in err


def test_a_damaged_folder_is_not_signed(root, keys, refused):
    path = next((root / "records").glob("*.json"))
    fake_records.edit(path, notes={"edited": True})
    said = refused("sign", root, "--key", keys / "alice")
    assert "delete damaged records before you sign" in said
    assert not (root / "signatures").exists()


@pytest.mark.parametrize(
    ("key", "sentence"),
    [("missing", "ssh-keygen cannot sign with"), ("alice.allowed", "ssh-keygen cannot sign with")],
)
def test_what_is_no_key(root, keys, refused, key, sentence):
    assert sentence in refused("sign", root, "--key", keys / key)


def test_without_openssh(root, keys, refused, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "install OpenSSH" in refused("sign", root, "--key", keys / "alice")


def test_a_link_in_place_of_a_folder_is_not_followed(root, tmp_path, keys, refused):
    (tmp_path / "elsewhere").mkdir()
    (root / "signatures").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in refused("sign", root, "--key", keys / "alice")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_merge_follows_no_link_and_takes_no_list_of_another_name(
    root, tmp_path, keys, cli, refused
):
    assert cli("sign", root, "--key", keys / "alice")[0] == 0
    (listed,) = (root / "signatures").glob("*.txt")
    other = listed.with_name(f"{'0' * 32}.txt")
    other.write_text("not this name's")
    assert cli("merge", root, "--results", tmp_path / "merged")[0] == 0
    merged = {file.name for file in (tmp_path / "merged/signatures").iterdir()}
    assert merged == {listed.name, f"{listed.name}.sig"}
    (root / "signatures").rename(tmp_path / "elsewhere")
    (root / "signatures").symlink_to(tmp_path / "elsewhere")
    assert "signatures is a link" in refused("merge", root, "--results", tmp_path / "again")


def test_the_digest_that_is_signed_is_the_stored_one(root):
    for record in ReadOnlyStore(root):
        assert record.digest
        assert f'"digest": "{record.digest}"' in ReadOnlyStore(root).path(record.key).read_text()
