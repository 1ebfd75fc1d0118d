"""The hub: downloaded files, recorded revisions, and errors with the ways out."""

from pathlib import Path

import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from bench.inputs import corpora, data_sets, download, hub
from methods.contract.errors import UserError
from methods.model.folder import Folder

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def repository(tmp_path):
    places = (tmp_path / "mirror/owner/text",)
    return hub.Repository("owner/text", "dataset", "corpus text", "take another", places)


def assert_names(sentence, *parts):
    """Assert that a sentence of one line has all parts."""
    assert [part for part in parts if part not in sentence] == [] and "\n" not in sentence


def test_a_mirror_is_named_by_the_option_before_the_environment(monkeypatch):
    assert hub.mirror(None) is None
    monkeypatch.setenv("BENCH_DATA_DIR", "environment")
    assert hub.mirror(None) == Path("environment")
    assert hub.mirror(Path("option")) == Path("option")
    monkeypatch.setenv("BENCH_DATA_DIR", "")
    assert hub.mirror(None) is None


def test_latest_is_the_commit_and_its_files(fake_hub, repository):
    fake_hub.files = ("a.parquet", "b/c.json")
    assert repository.latest() == (fake_hub.revision, ("a.parquet", "b/c.json"))
    assert fake_hub.timeouts == [hub.TIMEOUT_S]


def test_a_filled_root_is_a_mirror_and_records_its_revision(fake_hub, repository, tmp_path):
    fake_hub.files = ("data/a.parquet", "data/a[1].parquet", "load.py", "other/b.parquet")
    got = hub.fill(tmp_path / "root", repository, ("data/*",))
    folder = tmp_path / "root/owner/text"
    assert got == [folder / "data/a.parquet", folder / "data/a[1].parquet"]
    assert all(file.is_file() for file in got)
    assert fake_hub.downloads == [("owner/text", "dataset", fake_hub.revision)]
    assert (folder / "REVISION").read_text() == f"{fake_hub.revision}\n"
    assert hub.recorded_revision(folder) == fake_hub.revision
    assert not (folder / "load.py").exists() and not (folder / "other").exists()


def test_damaged_files_beside_data_are_no_traceback(tmp_path):
    (tmp_path / "README.md").write_text(f"---\nconfigs: {'[' * 5000}\n---\n")
    (tmp_path / "x.jsonl").write_text("{}")
    assert data_sets.holds(tmp_path, "") and not data_sets.holds(tmp_path, "main")
    (tmp_path / "REVISION").write_bytes(b"\xff\n")
    assert hub.recorded_revision(tmp_path) == "\N{REPLACEMENT CHARACTER}"
    (tmp_path / "UNFINISHED").write_text("x" * 5000)
    assert not hub.is_whole(tmp_path)
    (tmp_path / "UNFINISHED").write_bytes(b"\xff")
    assert not hub.is_whole(tmp_path)


@pytest.mark.parametrize("error", [GatedRepoError, RepositoryNotFoundError])
@pytest.mark.parametrize(
    ("kind", "page"), [("model", "huggingface.co/a/b"), ("dataset", "huggingface.co/datasets/a/b")]
)
def test_a_refusal_names_the_licence_and_the_ways(fake_hub, error, kind, page):
    fake_hub.error = error.__new__(error)
    with pytest.raises(UserError) as refused:
        hub.Repository("a/b", kind, "task t", "take task u").latest()
    sentence, mirror = str(refused.value), ("--data-dir <mirror>", "BENCH_DATA_DIR")
    assert_names(sentence, "task t (a/b) is gated", f"{page} and set HF_TOKEN", *mirror)
    assert sentence.endswith("or take task u") and "connect" not in sentence


@pytest.mark.parametrize(
    ("use", "table"), [("evaluation", "perplexity"), ("calibration", "calibration"), (None, "")]
)
def test_a_missing_corpus_names_the_setting_for_another(fake_hub, tmp_path, use, table):
    fake_hub.error = GatedRepoError.__new__(GatedRepoError)
    way = f"--set {table}.data=wiki-mini" if use else "wiki-mini"
    with pytest.raises(UserError, match=rf"or take a corpus that needs no download \({way}\)$"):
        corpora.pull("wikitext2", tmp_path, use)


def test_what_cannot_be_a_name_is_one_sentence(fake_hub):
    fake_hub.error = HFValidationError("Cannot have -- or .. in repo_id: 'a/b--c'.")
    with pytest.raises(UserError, match=r"^task t \(a/b--c\) cannot be the name .*: Cannot have"):
        hub.Repository("a/b--c", "dataset", "task t", "").latest()


def http_error() -> Exception:
    """Return an error of the client's HTTP library that the client does not wrap."""
    (root, *_) = HfHubHTTPError.__bases__
    return type("ConnectError", (root,), {})("refused")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (http_error(), "(ConnectError)"),
        (HfHubHTTPError.__new__(HfHubHTTPError), "(HfHubHTTPError)"),
        (OSError(28, "No space left on device"), "(No space left on device)"),
    ],
)
def test_an_unreachable_hub_names_where_was_searched_and_the_ways(
    fake_hub, repository, error, reason
):
    fake_hub.error = error
    with pytest.raises(UserError) as refused:
        repository.latest()
    sentence, ways = str(refused.value), ("connect", "--data-dir <mirror>", "take another")
    assert_names(sentence, "corpus text (owner/text) is not in ", *ways, reason)
    assert "mirror/owner/text" in sentence


@pytest.mark.parametrize("variable", hub.OFFLINE_ENV)
def test_a_hub_that_is_not_to_be_asked_names_the_variable(fake_hub, monkeypatch, variable):
    for name in hub.OFFLINE_ENV:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "1")
    fake_hub.error = OfflineModeIsEnabled("offline")
    with pytest.raises(UserError) as refused:
        download.pull("llama2-7b")
    sentence = str(refused.value)

    assert sentence.startswith("model llama2-7b (meta-llama/Llama-2-7b-hf) is not in ")
    assert_names(sentence, f"${variable} is set: unset it and connect", "<mirror>/meta-llama")
    assert sentence.endswith("or use a local folder (bench run --model FOLDER)")


def test_a_download_that_ends_early_is_no_success(fake_hub, repository, tmp_path):
    """Some versions of the client return normally after a broken connection if the folder has
    files."""
    fake_hub.files = ("a.parquet",)
    snapshot = hub.Snapshot(fake_hub.revision, ("a.parquet", "b.parquet"))
    with pytest.raises(UserError, match="No such file"):
        repository.download(snapshot, snapshot.files, tmp_path)


def test_a_corpus_is_fetched_for_one_use_and_then_read_from_the_cache(fake_hub):
    wanted, other = "c4-validation.00000-of-00008.json.gz", "c4-train.00000-of-01024.json.gz"
    fake_hub.files = (f"en/{wanted}", f"en/{other}", "README.md")
    first = corpora.digest("c4", "evaluation", None, fetch=True)
    assert [f.name for f in corpora.files("c4", "evaluation", None)] == [wanted]
    assert corpora.files("c4", "calibration", None) == []
    assert corpora.digest("c4", "evaluation", None, fetch=True) == first
    assert len(fake_hub.downloads) == 1


def test_a_model_with_pickled_weights_alone_is_refused(fake_hub):
    fake_hub.files = ("pytorch_model.bin", "config.json")
    with pytest.raises(UserError, match="owner/model has no safetensors files"):
        download.pull("owner/model")
    assert not fake_hub.downloads


def test_of_a_model_code_and_pickles_stay_on_the_hub(fake_hub, monkeypatch):
    wanted = {"model.safetensors", "config.json", "tokenizer.json"}
    fake_hub.files = (*wanted, "pytorch_model.bin", "modeling.py")
    seen = set()

    def look(path):
        seen.update(p.name for p in path.iterdir())
        return Folder(path)

    monkeypatch.setattr(download, "Folder", look)
    with pytest.raises(UserError):  # the fake's files are no model
        download.pull("owner/model")

    assert seen == wanted | {"PULLED.json"}
    assert fake_hub.downloads == [("owner/model", "model", fake_hub.revision)]


def test_files_of_which_some_are_still_to_be_fetched_count_for_none(
    fake_hub, tmp_path, monkeypatch
):
    fake_hub.files = ("sample/10BT/000.parquet", "sample/10BT/001.parquet")
    download, folder = hub.Repository.download, tmp_path / "HuggingFaceFW/fineweb-edu"

    def breaks_off(repository, snapshot, files, folder):
        download(repository, snapshot, list(files)[:1], folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hub.Repository, "download", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            corpora.pull("fineweb-edu", tmp_path)
    assert list(folder.rglob("*.parquet"))
    assert not corpora.files("fineweb-edu", "training", tmp_path)
    assert hub.is_whole(folder, "data/*"), "what else is there stays"

    corpora.pull("fineweb-edu", tmp_path)

    assert len(corpora.files("fineweb-edu", "training", tmp_path)) == 2
    assert not (folder / hub.UNFINISHED_FILE).exists()
