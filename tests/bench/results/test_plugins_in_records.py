"""Plug-ins in records: their distribution and version, and a history that follows their
repository."""

import json
import subprocess

import pytest

from bench.catalog import registry
from bench.comparing.result_arguments import read
from bench.system import provenance
from helpers import fake_records, plugins, runs


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return plugins.install(tmp_path_factory.mktemp("author"), "author", {"mine": "pass"})


@pytest.mark.usefixtures("world")
def test_a_record_names_the_plug_in(tmp_path, cli):
    runs.run_here(runs.small(tmp_path / "r", methods=("mine",), measures=("size",)))
    found = runs.records(tmp_path / "r")
    assert found["dense", None, "size"].plugins == []
    record = found["mine", None, "size"]
    assert record.plugins == [{"name": "mine", "distribution": "author", "version": "1.0"}]
    _, out, _ = cli("show", record.key[:12], "--results", tmp_path / "r")
    assert "mine of author 1.0" in out


def installed(site, url):
    """Return what a record says of the distribution after an install from this address."""
    (site / "author-1.0.dist-info/direct_url.json").write_text(json.dumps(url))
    runs.forget()
    provenance.commit.cache_clear()
    return provenance.describe_plugin("mine", registry.distribution_of("methods", "mine"))


@pytest.mark.usefixtures("world")
def test_where_a_plug_in_was_installed_from(site, tmp_path):
    vcs = {"vcs": "git", "commit_id": "a" * 40}
    about = installed(site, {"url": "https://me:secret@host/o/r.git", "vcs_info": vcs})
    assert about["repository"] == "https://host/o/r.git"
    assert about["commit"] == {"id": "a" * 40, "dirty": False}

    git = ["git", "-C", str(tmp_path)]
    for setting in ("user.name=a", "user.email=a@b", "commit.gpgsign=false"):
        git += ["-c", setting]
    (tmp_path / "package").mkdir()
    (tmp_path / "package/a.py").write_text("1")
    for line in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
        subprocess.run([*git, *line], check=True)
    editable = {"url": (tmp_path / "package").as_uri(), "dir_info": {"editable": True}}
    about = installed(site, editable)
    assert len(about["commit"]["id"]) == 40
    assert not about["commit"]["dirty"]
    assert "repository" not in about
    (tmp_path / "package/a.py").write_text("2")
    assert installed(site, editable)["commit"]["dirty"]

    no_commit = {"url": "https://h/x", "vcs_info": {"commit_id": 7}}
    for url in ({"url": tmp_path.as_uri()}, {"url": 3}, [], no_commit):
        assert "commit" not in installed(site, url)


@pytest.mark.parts("history")
def test_a_history_follows_the_repository_of_the_plug_in(tmp_path, output):
    for k, (mine, suite) in enumerate((("a", "0.1.0"), ("b", "0.1.0"), ("c", "0.2.0"))):
        commit = {"id": mine * 40, "dirty": False, "time": f"2026-01-0{k + 1}T00:00:00Z"}
        plugin = {"name": "mine", "distribution": "author", "version": "1", "commit": commit}
        about = {"plugins": [plugin], "versions": {"cast-bench": suite}}
        # Recorded in another order than committed.
        about |= {"recorded": f"2026-02-0{3 - k}T00:00:00Z", "commit": {"id": None, "dirty": None}}
        about = {"made": mine, "method": "mine", "provenance": about}
        fake_records.perplexity(tmp_path / "r", 0.01 * k, **about)

    rows = json.loads(output("history", "--results", tmp_path / "r", "--json"))
    assert [row["commit"] for row in rows] == [c * 12 for c in "abc"]
    assert [row["surroundings"] for row in rows] == ["", "", "cast-bench 0.1.0 to 0.2.0"]
    assert len(read(tmp_path / "r", every=True).records) == 3
    output("compare", "a" * 8, "b" * 8, "--results", tmp_path / "r")
