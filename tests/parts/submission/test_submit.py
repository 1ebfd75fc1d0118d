"""bench submit: made, edited and refused; made again, accepted, and on the leaderboard by the
workflow's own steps."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from bench.parts.submission import message, review, submission_rules
from bench.parts.submission.review import Review
from bench.reporting.searches import About
from bench.results.folder_check import FolderCheck
from bench.results.store import ReadOnlyStore
from bench.system import archives
from helpers import fake_records

ROOT = Path(__file__).parents[3]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/submission.yml").read_text())


def copy(target, keep):
    """Copy records of a published folder, with their items."""
    store = ReadOnlyStore(ROOT / "results/tiny-default")
    for record in store:
        if keep(record.identity) and record.identity.measure in ("perplexity", "size", "pattern"):
            items = [store.items_path(record)] if record.items else []
            for path in (store.path(record.key), *items):
                (target / path.parent.name).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target / path.parent.name)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Repository with a published folder, and a run of more than that."""
    home = tmp_path_factory.mktemp("made")
    for name, method in (("base", "magnitude"), ("local", "wanda")):
        stages = (("dense",), (method,))
        keep = lambda i, stages=stages: i.stages in stages and i.quantizer == "none"  # noqa: E731
        copy(home / "results" / name, keep)
    quantized = ("wanda",), "int8", "pattern"
    copy(home / "more", lambda i: (i.stages, i.quantizer, i.measure) == quantized)
    (path,) = (home / "more/records").iterdir()
    failure = {"status": "failed", "readings": [], "reason": "OOM", "traceback": "/home/ada/x.py"}
    fake_records.edit(path, seal=True, **failure)
    shutil.move(path, home / "results/local/records")
    return home


@pytest.fixture
def checkout(made, tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "results", tmp_path / "results")
    return tmp_path


def test_of_one_measurement_the_newest_is_submitted(checkout, cli):
    """A folder has two records of one measurement if it was repeated after a change of the code."""
    store = ReadOnlyStore(checkout / "results/local")
    record = next(
        r for r in store if r.identity.stages == ("wanda",) and r.identity.measure == "perplexity"
    )
    inputs = record.key_inputs | {"older": True}
    provenance = record.provenance | {"recorded": "2020-01-01T00:00:00Z"}
    older = record.model_copy(update={"key_inputs": inputs, "provenance": provenance})
    items = fake_records.read_items(store.items_path(record))
    older = fake_records.keyed(older)
    fake_records.put(checkout / "results/local", older, items, record.readings)

    code, out, err = cli(*MAKE)
    assert code == 0, err
    assert "1 record that a newer one replaces left out" in err
    assert "tiny-xeon-ada.zip: 3 records" in out


def test_a_command_names_each_task_and_each_seed_once():
    store = ReadOnlyStore(ROOT / "results/tiny-default")
    of_wanda = [
        r for r in store if (r.identity.stages, r.identity.quantizer) == (("wanda",), "none")
    ]
    row = [r for r in of_wanda if r.identity.measure == "zeroshot"]
    seeds = sorted({r.identity.seed for r in row})

    text = message._commands([*row, *row])

    tasks = sorted({r.identity.protocol.name for r in row})
    assert sorted(re.findall(r"--tasks (\S+)", text)) == tasks
    assert set(re.findall(r"--seeds (\S+)", text)) == {",".join(map(str, seeds))}


MAKE = ("submit", "results/local", "--credit", "Ada *L*", "--about",
        "Wanda, again: @everyone #1.", "--name", "tiny-xeon-ada")  # fmt: skip


@pytest.mark.parametrize(("count", "others"), [(1, ""), (3, " and 2 more records")])
def test_a_reason_is_said_once_and_names_a_record_where_its_user_finds_it(
    checkout, cli, monkeypatch, count, others
):
    """The folder that is reviewed is a temporary copy."""
    monkeypatch.setattr(
        submission_rules,
        "of_dense",
        lambda records, theirs: [(one, "it is odd") for one in records[:count]],
    )

    code, out, err = cli(*MAKE)

    assert re.fullmatch(rf"refused: results/local/records/\w+\.json{others}: it is odd\n", out), out
    assert code == 1 and "is refused for 1 reason above" in err
    assert not (checkout / "submissions").exists()


def test_made_edited_refused_made_again_accepted(checkout, cli, output):
    code, out, err = cli(*MAKE)
    assert code == 0, err
    assert "3 records that are already in results/base left out" in err
    assert "1 record without numbers left out" in err
    assert "tiny-xeon-ada.zip: 3 records" in out
    archive, text = (checkout / "submissions" / f"tiny-xeon-ada.{kind}" for kind in ("zip", "md"))
    first = archive.read_bytes()
    assert "Ada &#42;L&#42;" in text.read_text()
    assert "&#64;&#8203;everyone &#35;&#8203;1" in text.read_text()
    assert "new: wanda, 2:4: rank" in html.unescape(text.read_text())

    with zipfile.ZipFile(archive) as packed:
        packed.extractall(checkout / "results")
    folder = checkout / "results/tiny-xeon-ada"
    record = next(r for r in ReadOnlyStore(folder) if r.identity.measure == "perplexity")
    path = ReadOnlyStore(folder).path(record.key)
    fake_records.edit_value(path, 20.0, seal=True)
    code, out, err = cli("submit", folder, "--check", "--md", "review.md")
    assert code == 1 and "refused: " in out and "its items give" in out
    assert "correct it, and submit" in err
    assert (checkout / "review.md").read_text().startswith("## Refused")

    shutil.rmtree(folder)
    assert cli(*MAKE)[0] == 0
    assert archive.read_bytes() == first  # the same records and day, the same bytes
    out = output("submit", archive, "--check", "--md", "review.md")
    assert out == (checkout / "review.md").read_text() == text.read_text()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (("submit",), "needs --credit"),
        (("submit", "--check", "--credit", "x"), "--credit is for a new submission"),
        ((*MAKE, "--md", "x.md"), "--md is for --check"),
        ((*MAKE, "--licence", "x"), "give NAME=LICENCE"),
        ((*MAKE, "--weights", "abcdef12=http://a.org/b"), "an https URL without a query"),
        (("submit", "nowhere.zip", "--check"), "does not exist"),
        (
            ("submit", "nowhere.zip", "--check", "--published", "typo"),
            "--published 'typo' is no folder: name the one",
        ),
        (("submit", "results/base", "--credit", "x"), "no new record"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else None,
)
def test_what_a_command_line_refuses(checkout, refused, line, reason):
    if line[1:2] == ("results/base",):
        shutil.copytree("results/base", "results/copy")  # base itself is not compared with itself
    assert reason in refused(*line)
    assert not (checkout / "submissions").exists()


def test_an_archive_is_named_and_not_its_copy(checkout, cli, refused):
    assert cli(*MAKE)[0] == 0
    archive = Path("submissions/tiny-xeon-ada.zip")
    with zipfile.ZipFile(archive) as packed:
        files = {name: packed.read(name) for name in packed.namelist()}
    files["tiny-xeon-ada/about.toml"] = b"["
    archives.write(archive, list(files.items()))

    err = refused("submit", archive, "--check")
    assert str(archive / "about.toml") in err and "submission-" not in err


def test_a_check_needs_results_to_compare_with(checkout, cli, refused):
    assert cli(*MAKE)[0] == 0
    shutil.rmtree("results")

    assert "no folder 'results' to compare with" in refused(
        "submit submissions/tiny-xeon-ada.zip --check"
    )


def test_refusals_are_listed_to_a_limit():
    reasons = tuple(f"reason {i} " + "x" * 2000 for i in range(60))
    found = Review(Path("x"), About(), FolderCheck((), 0, {}, (), ()), reasons)

    lines = message.refusal(found, "x").splitlines()
    assert lines[-2].startswith("- reason 49 x") and lines[-1] == "- and 10 more"
    assert len("\n".join(lines)) < 65_536  # of a comment on GitHub


def test_another_dense_number_than_the_published_one(checkout, refused):
    """Such a machine, or its libraries, measures something else. No other number of the folder
    counts either."""
    store = ReadOnlyStore(checkout / "results/base")
    sizes = [r for r in store if r.identity.measure == "size"]
    (dense,) = (r for r in sizes if r.identity.stages == ("dense",))
    path = store.path(dense.key)
    readings = json.loads(path.read_text())["readings"]
    for reading in readings:
        if reading["metric"] in ("bytes", "bytes_packed", "bits_per_weight"):
            reading["value"] *= 2
    fake_records.edit(path, seal=True, readings=readings)

    assert "disagrees with results/base: its bytes_packed" in refused(*MAKE)


def test_a_review_installs_the_base_and_never_the_code_of_the_change():
    steps = [step.get("run", "") for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    assert [run for run in steps if "pip install" in run] == ["pip install --quiet ./base"]


def git(folder, *arguments):
    name = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", str(folder), *name, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def run_steps(room, base):
    """Run the job's steps in order, as a runner does."""
    environment = os.environ | {"GITHUB_STEP_SUMMARY": str(room / "summary.md"), "BASE": base}
    environment["PATH"] = f"{room / 'bin'}:{os.environ['PATH']}"
    environment["PYTHONPATH"] = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]
    options = {"cwd": room, "env": environment, "capture_output": True, "text": True}
    failed, said = 0, ""
    for step in WORKFLOW["jobs"]["review"]["steps"]:
        if "run" in step and (not failed or step.get("if") == "always()"):
            done = subprocess.run([*bash, step["run"]], check=False, **options)
            failed, said = failed or done.returncode, said + done.stdout + done.stderr
    return failed, said


@pytest.mark.full
def test_the_workflows_own_steps(checkout, cli):
    assert cli(*MAKE)[0] == 0
    room = checkout / "runner"
    (room / "bin").mkdir(parents=True)
    for name, line in (("pip", "exit 0"), ("bench", f'exec {sys.executable} -m bench "$@"')):
        (room / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (room / "bin" / name).chmod(0o755)
    shutil.copytree(checkout / "results/base", room / "base/results/base")
    shutil.copytree(room / "base", room / "change")
    git(room / "change", "init", "-q", "-b", "main")
    git(room / "change", "add", ".")
    git(room / "change", "commit", "-qm", "base")
    base = git(room / "change", "rev-parse", "HEAD")
    with zipfile.ZipFile(checkout / "submissions/tiny-xeon-ada.zip") as packed:
        packed.extractall(room / "change/results")
    git(room / "change", "add", ".")
    git(room / "change", "commit", "-qm", "results: tiny on a Xeon")

    code, said = run_steps(room, base)

    assert code == 0, said
    summary = html.unescape((room / "summary.md").read_text())
    assert "new: wanda, 2:4: rank" in summary
    moved = re.findall(r"(rank \S+|no rank) before, now (rank \S+|no rank)", summary)
    assert all(before != now for before, now in moved)
    assert bool(moved) != ("No other row moves." in summary)
    assert "| wanda |" in (room / "review/page/leaderboard.md").read_text()
    page = (room / "review/page/leaderboard.html").read_text()
    assert "Ada *L*" in page

    (room / "change/results/base/records/x.txt").write_text("and one more file")
    git(room / "change", "add", ".")
    git(room / "change", "commit", "-qm", "more")
    shutil.rmtree(room / "base/results/tiny-xeon-ada")
    code, said = run_steps(room, base)
    assert code == 1 and "adds one folder" in said


def test_a_reviewer_is_told_of_one_measurement_under_two_seeds(tmp_path):
    records = [fake_records.perplexity(tmp_path, 0.1, method="wanda", seed=seed) for seed in (0, 1)]
    (told,) = [r for r in review._remarks(records, ()) if r.startswith("Equal")]
    assert told == "Equal to the last bit: wanda 2:4 none seed 0 and wanda 2:4 none seed 1."
