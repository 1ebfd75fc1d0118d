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
    return hub.Repository(
        "owner/text", "dataset", "corpus text", "take another", (tmp_path / "mirror/owner/text",)
    )


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
    with pytest.raises(UserError, match="UNFINISHED is not text in UTF-8"):
        hub.is_whole(tmp_path)


@pytest.mark.parametrize("error", [GatedRepoError, RepositoryNotFoundError])
@pytest.mark.parametrize(
    ("kind", "page"), [("model", "huggingface.co/a/b"), ("dataset", "huggingface.co/datasets/a/b")]
)
def test_a_refusal_names_the_licence_and_the_ways(fake_hub, error, kind, page):
    fake_hub.error = error.__new__(error)
    with pytest.raises(UserError) as refused:
        hub.Repository("a/b", kind, "task t", "take task u").latest()
    sentence = str(refused.value)

    ways = (
        "task t (a/b) is gated", f"{page} and set HF_TOKEN", "--data-dir <mirror>",
        "BENCH_DATA_DIR", "or take task u",
    )  # fmt: skip
    assert [w for w in ways if w not in sentence] == []
    assert "\n" not in sentence and "connect" not in sentence


@pytest.mark.parametrize(
    ("use", "way"),
    [
        ("evaluation", "--set perplexity.data=wiki-mini"),
        ("calibration", "--set calibration.data=wiki-mini"),
        (None, "wiki-mini"),
    ],
)
def test_a_missing_corpus_names_the_setting_for_another(fake_hub, tmp_path, use, way):
    fake_hub.error = GatedRepoError.__new__(GatedRepoError)
    with pytest.raises(UserError, match=rf"or take a corpus that needs no download \({way}\)$"):
        corpora.pull("wikitext2", tmp_path, use)


def test_what_cannot_be_a_name_is_one_sentence(fake_hub):
    fake_hub.error = HFValidationError("Cannot have -- or .. in repo_id: 'a/b--c'.")
    with pytest.raises(
        UserError,
        match=r"^task t \(a/b--c\) cannot be the name of a repository on the hub: Cannot have",
    ):
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
    sentence = str(refused.value)

    ways = (
        "corpus text (owner/text) is not in ", "mirror/owner/text", reason, "connect",
        "--data-dir <mirror>", "take another",
    )  # fmt: skip
    assert [w for w in ways if w not in sentence] == []
    assert "\n" not in sentence


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
    assert (
        f"/models/meta-llama--Llama-2-7b-hf, and ${variable} is set: unset it and connect, or "
        "copy it to <mirror>/meta-llama" in sentence
    )
    assert sentence.endswith("or use a local folder (bench run --model FOLDER)")


def test_a_download_that_ends_early_is_no_success(fake_hub, repository, tmp_path):
    """Some versions of the client return normally after a broken connection if the folder has
    files."""
    fake_hub.files = ("a.parquet",)
    snapshot = hub.Snapshot(fake_hub.revision, ("a.parquet", "b.parquet"))

    with pytest.raises(UserError, match="No such file"):
        repository.download(snapshot, snapshot.files, tmp_path)


def test_a_corpus_is_fetched_for_one_use_and_then_read_from_the_cache(fake_hub):
    fake_hub.files = (
        "en/c4-validation.00000-of-00008.json.gz",
        "en/c4-train.00000-of-01024.json.gz",
        "README.md",
    )
    first = corpora.digest("c4", "evaluation", None, fetch=True)

    assert [f.name for f in corpora.files("c4", "evaluation", None)] == [
        "c4-validation.00000-of-00008.json.gz"
    ]
    assert corpora.files("c4", "calibration", None) == []
    assert corpora.digest("c4", "evaluation", None, fetch=True) == first
    assert len(fake_hub.downloads) == 1


def test_a_model_with_pickled_weights_alone_is_refused(fake_hub):
    fake_hub.files = ("pytorch_model.bin", "config.json")
    with pytest.raises(
        UserError, match="owner/model has no safetensors files, and pickle can run code"
    ):
        download.pull("owner/model")
    assert not fake_hub.downloads


def test_of_a_model_code_and_pickles_stay_on_the_hub(fake_hub, monkeypatch):
    fake_hub.files = (
        "model.safetensors",
        "pytorch_model.bin",
        "config.json",
        "modeling.py",
        "tokenizer.json",
    )
    seen = []

    def look(path):
        seen.extend(sorted(p.name for p in path.iterdir()))
        return Folder(path)

    monkeypatch.setattr(download, "Folder", look)
    with pytest.raises(UserError):  # the fake's files are no model
        download.pull("owner/model")

    assert seen == ["PULLED.json", "config.json", "model.safetensors", "tokenizer.json"]
    assert fake_hub.downloads == [("owner/model", "model", fake_hub.revision)]


def test_files_of_which_some_are_still_to_be_fetched_count_for_none(
    fake_hub, tmp_path, monkeypatch
):
    fake_hub.files = ("sample/10BT/000.parquet", "sample/10BT/001.parquet")
    download = hub.Repository.download

    def breaks_off(repository, snapshot, files, folder):
        download(repository, snapshot, list(files)[:1], folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(hub.Repository, "download", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            corpora.pull("fineweb-edu", tmp_path)
    assert list((tmp_path / "HuggingFaceFW/fineweb-edu").rglob("*.parquet"))
    assert not corpora.files("fineweb-edu", "training", tmp_path)
    assert hub.is_whole(tmp_path / "HuggingFaceFW/fineweb-edu", "data/*"), (
        "what else is there stays"
    )

    corpora.pull("fineweb-edu", tmp_path)

    assert len(corpora.files("fineweb-edu", "training", tmp_path)) == 2
    assert not (tmp_path / "HuggingFaceFW/fineweb-edu" / hub.UNFINISHED_FILE).exists()
