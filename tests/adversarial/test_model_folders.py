"""Damaged or hostile model folders end in one sentence with exit code 2, before a worker starts."""

import json
import shutil

import pytest

from bench import api
from bench.inputs import models
from helpers import fake_records, folders, runs
from helpers.limits import limits
from helpers.models import sample
from methods.contract.errors import UserError

pytestmark = pytest.mark.usefixtures("cache", "in_tmp_path")


@pytest.mark.parametrize("name", folders.DAMAGES)
def test_a_damaged_folder_is_a_sentence(tmp_path, name):
    folder = runs.tiny(tmp_path / "model")
    folders.DAMAGES[name](folder)
    with limits(), pytest.raises(UserError) as fault:
        api.plan(runs.small(tmp_path / "r", models=(str(folder),)))
    assert len(str(fault.value).splitlines()) == 1 and len(str(fault.value)) < 700


def hub_cache(root):
    """Store tiny as huggingface_hub does: a snapshot with links to blobs."""
    snapshot, blobs = root / "models--owner--tiny/snapshots/abc", root / "models--owner--tiny/blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(runs.TINY.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def linked_into(cache, folder):
    """Copy tiny with its weights in a cache."""
    shutil.copytree(runs.TINY, cache / "tiny")
    folder = runs.tiny(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(cache / "tiny/model.safetensors")
    return folder


@pytest.mark.parametrize("where", ["HF_HUB_CACHE", "CAST_BENCH_CACHE", "a hub cache"])
def test_links_into_a_cache_are_followed(where, tmp_path, monkeypatch):
    if where.isupper():
        monkeypatch.setenv(where, str(tmp_path / "shared"))
        folder = linked_into(tmp_path / "shared", tmp_path / "model")
    else:
        folder = hub_cache(tmp_path)
    found, tiny = models.resolve(str(folder)), models.resolve("tiny")
    assert (found.digest, found.tokenizer_digest) == (tiny.digest, tiny.tokenizer_digest)


def test_a_blob_that_is_a_link_to_elsewhere_is_refused(tmp_path, refused):
    snapshot = hub_cache(tmp_path)
    blob = (snapshot / "config.json").resolve()
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    assert "outside its model folder" in refused("plan", "--model", snapshot)


@pytest.mark.parametrize(
    "name", ["linked config", "linked weights", "piped", "piped weights", "linked to itself"]
)
@pytest.mark.parts("exports")
def test_other_commands_follow_no_link_to_elsewhere_either(cli, tmp_path, name):
    folder = runs.tiny(tmp_path / "model")
    folders.DAMAGES[name](folder)

    export = ("export", folder, "--out", "new")
    for line in (("verify", folder), export, (*export, "--format", "packed24")):
        with limits():
            code, _, err = cli(*line)

        assert code == 2 and err.startswith("bench: "), err
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "LICENSE"])
@pytest.mark.parts("exports")
def test_nothing_from_elsewhere_is_exported(refused, tmp_path, name):
    (tmp_path / "secret").write_text(json.dumps("secret"))
    folder = runs.tiny(tmp_path / "model")
    folders.link(name, str(tmp_path / "secret"))(folder)
    for line in (("export", folder), ("prune", "--model", folder, "--method", "dense")):
        assert name in refused(*line, "--out", tmp_path / "new")
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "name", sample(folders.TOKENIZERS, *(folders.TOKENIZERS.keys() - {"growth"}))
)
def test_a_tokenizer_that_changes_what_is_measured_is_a_sentence(tmp_path, refused, name):
    damage, said = folders.TOKENIZERS[name]
    folder = runs.tiny(tmp_path / "model")
    damage(folder)
    err = refused("plan", "--model", folder, "--measures", "perplexity")
    assert said in err and err.count("\n") <= 1, err


CONFIGS = ("layers", "narrow", "own code", "attention of a hub", "many labels")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parts("exports")
def test_every_command_reads_a_config_with_the_same_check(refused, tmp_path, name):
    folder = runs.tiny(tmp_path / "model")
    folders.DAMAGES[name](folder)
    said = refused("plan", "--model", folder)
    assert refused("verify", folder) == refused("export", folder, "--out", "new") == said


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("out", "merge results --results out"),
        ("out", "prune --method magnitude --out out"),
        ("out", "verify out"),
        ("elsewhere/new", "submit results --credit me --out out"),
        ("elsewhere/new", "export --results results --format eee --out out"),
    ],
)
@pytest.mark.parts("exports", "submission")
def test_a_link_to_itself_or_to_nothing_as_target_is_a_sentence(refused, tmp_path, target, command):
    (tmp_path / "out").symlink_to(target)
    fake_records.perplexity(tmp_path / "results")
    refused(command)


def test_a_cache_that_is_a_link_to_itself_is_a_sentence(refused, tmp_path, monkeypatch):
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / "loop"))
    assert "$CAST_BENCH_CACHE" in refused("run --methods magnitude")
