"""Texts of packages, made texts, and the check against test questions."""

import gzip
import io
import json
import tarfile

import pytest

import bench
from bench.inputs import corpora, tracks, wikimini
from bench.parts.sources import made, packages, removed, shared
from bench.system import cache, digests
from methods.contract.errors import UserError

QUESTION = "the quick brown fox jumps over the lazy dog while nobody at all"
ANSWER = " looks"


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror with one question, of 13 words with its answer less one, and an empty cache."""
    monkeypatch.setenv(cache.CACHE_ENV, str(tmp_path / "cache"))
    file = tracks.path("code/humaneval", tmp_path)
    file.parent.mkdir(parents=True)
    question = {"id": "0", "cluster": "0", "contexts": [QUESTION], "continuations": [ANSWER]}
    lines = [{"before": ""}, question | {"gold": 0}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def test_shared_passages(mirror):
    """Case and punctuation do not count. 12 equal words are no passage."""
    tasks = ("code/humaneval", "code/mbpp")
    text = f"Before: {QUESTION.upper()},{ANSWER}! After"
    assert len(shared.passages(QUESTION + ANSWER)) == 2
    assert shared.count([text], mirror, tasks) == {"code": 2}
    assert shared.count([text.replace("JUMPS", "leaps")], mirror, tasks) == {}
    assert shared.count([text], mirror, ("code/mbpp",)) is None


def test_a_text_with_test_questions_is_refused(mirror):
    own = mirror / "own.txt"
    own.write_text(f"{QUESTION}{ANSWER} and more. " * 100)
    spec = {
        "methods": ["sparsegpt"], "measures": ["answers"], "tasks": ["code/humaneval"],
        "data_dir": mirror, "calibration": {"data": str(own), "sequences": 2, "seqlen": 8},
    }  # fmt: skip
    with pytest.raises(UserError, match=r"has passages of 13 words from test questions: code \(2"):
        bench.plan(bench.Spec(**spec))


def test_what_was_left_out():
    """wiki lacks what wiki-mini shares, and records say both."""
    whole = corpora.documents("wiki-mini", "calibration", None)
    kept = corpora.documents("wiki", "calibration", None)
    gone = set("\n".join(whole).split("\n")) - set("\n".join(kept).split("\n"))
    assert {removed.digest_of(one) for one in gone} == set(removed.known()["wiki"]["removed"])
    assert shared.count_shared("wiki-mini", list, None, None)
    for name in ("wiki", "code", "technical", "languages"):
        assert shared.count_shared(name, list, None, None) == {}


def deb(text):
    """A package of Debian with one file."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        content = gzip.compress(text.encode())
        about = tarfile.TarInfo("./text.gz")
        about.size = len(content)
        archive.addfile(about, io.BytesIO(content))
    out = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0"), ("data.tar.xz", data.getvalue())):
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


def test_text_of_a_package(tmp_path, monkeypatch):
    """Its digest is checked, tables are left out, and one document of five is for evaluation."""
    text = "\n\n".join(f"Paragraph {i}.\n +--+\n | x|" for i in range(40))
    (tmp_path / "text.deb").write_bytes(deb(text))
    monkeypatch.setattr(packages, "POOL", tmp_path.as_uri())
    monkeypatch.setattr(packages, "DOCUMENT", 40)
    package = packages.Deb("text.deb", digests.of_file(tmp_path / "text.deb"), "./text.gz")
    about = {"name": "text", "packages": (package,)}
    source = packages.PackageText("a text", sha256="0" * 64, **about)
    with pytest.raises(UserError, match="checksum mismatch"):
        source.pull(tmp_path)
    whole = digests.of_file(tmp_path / packages.FOLDER / "text.txt")
    assert not source.digest(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is not the text of text: delete it"):
        source.digest(tmp_path)
    source = packages.PackageText("a text", sha256=whole, **about)
    assert source.digest(tmp_path)
    parts = [source.documents(use, tmp_path, None) for use in ("evaluation", "calibration")]
    assert [len(part) for part in parts] == [3, 11]
    assert not set(parts[0]) & set(parts[1])
    assert "+" not in "".join(parts[1])


def test_answers_of_the_model(tmp_path, monkeypatch):
    """Prompts of wiki, then what tiny answers greedily. They are made once."""
    monkeypatch.setattr(made, "PROMPTS", 4)
    monkeypatch.setattr(made, "TOGETHER", 2)
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / "cast-bench"))
    from bench.inputs import loading
    from bench.inputs.models import resolve
    from methods.contract.method import Compute

    folder, loads = resolve("tiny").folder, []

    def load():
        loads.append(1)
        return loading.load(folder, Compute())

    maker = corpora.Maker(loading.load_tokenizer(folder), load, folder, Compute())
    documents = corpora.documents("chat", "calibration", None, None, maker)
    assert [len(one) for one in documents] == [256, 256]
    assert documents == corpora.documents("chat", "calibration", None, None, maker)
    assert len(loads) == 1
    texts = "\n".join(article.text for article in wikimini.articles("train"))
    assert maker.tokenizer.decode(documents[0][:60]).strip() in texts


class Vocabulary:
    all_special_ids = (0, 1)

    def __len__(self):
        return 100


def test_random_tokens():
    maker = corpora.Maker(Vocabulary(), None, None, None)
    (tokens,) = corpora.documents("random", "calibration", None, None, maker)
    assert set(tokens) == set(range(2, 100))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"perplexity": {"data": "chat"}}, "chat has no evaluation split: use"),
        ({"methods": ["retrain"], "training": {"data": "random"}}, "random has no training text"),
    ],
)
def test_what_a_made_text_is_for(settings, said):
    with pytest.raises(UserError, match=said):
        bench.plan(bench.Spec(**settings))
