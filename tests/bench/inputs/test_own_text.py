"""A user's text: each document is a cluster, its content is in the key, and a short file says what
it needs."""

import contextlib
import json
import re
import resource
from types import SimpleNamespace

import pyarrow
import pytest
from pyarrow import parquet as pq

from bench.execution.job import Silent, Workspace
from bench.inputs import corpora, loading, own_text, windows
from bench.inputs.tokenizer_facts import read_tokenizer_facts
from bench.planning.plan import make_plan
from helpers import runs
from methods.contract.errors import UserError

LONG = "The mask of each layer is chosen from a few samples of text, block by block. " * 60


pytestmark = pytest.mark.usefixtures("cache")


def jsonl(path, *rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def parquet(path, **columns):
    pq.write_table(pyarrow.table(columns), path)
    return path


def read(name):
    return list(own_text.read(own_text.parse(str(name))))


def test_documents_of_each_kind(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    jsonl(tmp_path / "b.jsonl", {"text": "x", "body": "y"}, {"text": "z", "body": "w"})
    parquet(tmp_path / "c.parquet", text=["p", "q"], body=["r", "s"])
    assert read(tmp_path / "a.txt") == ["one\n\ntwo"]
    assert read(tmp_path / "b.jsonl") == ["x", "z"]
    assert read(f"{tmp_path / 'b.jsonl'}:body") == ["y", "w"]
    assert read(tmp_path / "c.parquet") == ["p", "q"]
    assert read(f"{tmp_path / 'c.parquet'}:body") == ["r", "s"]
    assert read(tmp_path) == ["one\n\ntwo", "x", "z", "p", "q"]


def test_messages_go_through_the_template(tmp_path):
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    file = jsonl(tmp_path / "a.jsonl", {"messages": chat})
    tokenizer = SimpleNamespace(
        chat_template="x",
        apply_chat_template=lambda m, tokenize: "".join(f"<{x['role']}>{x['content']}" for x in m),
    )

    assert read(file) == ["hi\nyes"]
    rendered = corpora.documents(str(file), "evaluation", None, own_text.template_of(tokenizer))
    assert rendered == ["<user>hi<assistant>yes"]
    with pytest.raises(UserError, match="no chat template"):
        corpora.documents(str(file), "evaluation", None, own_text.template_of(SimpleNamespace()))


def test_messages_are_not_counted_without_the_template(tmp_path):
    """Their contents are less than the text."""
    facts = read_tokenizer_facts(runs.TINY)
    chats, texts = {"messages": [{"role": "user", "content": "hi"}]}, {"text": "hi"}
    for row, known in ((chats, False), (texts, True)):
        file = str(jsonl(tmp_path / f"{known}.jsonl", *[row] * 100))
        assert own_text.has_messages(file) != known
        for check, sizes in (
            (windows.check_windows, (64, 30)),
            (windows.check_calibration, (4, 64)),
        ):
            with pytest.raises(UserError) if known else contextlib.nullcontext():
                check(file, *sizes, facts, None)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 'a' * 3000000000 }}", "MemoryError"),
        ("{{ messages[0].content * 2 }}", ""),
    ],
)
def test_a_template_is_bounded(template, said):
    tokenizer = loading.load_tokenizer(runs.TINY)
    tokenizer.chat_template = template
    render = own_text.template_of(tokenizer)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    if said:
        with pytest.raises(UserError, match=said):
            render([{"role": "user", "content": "hi"}])
    else:
        assert render([{"role": "user", "content": "hi"}]) == "hihi"
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_another_template_makes_other_training_text(tmp_path):
    """The tokens of the first are still on disk."""
    chats = [[{"role": "user", "content": f"{number} {LONG}"}] for number in range(9)]
    file = jsonl(tmp_path / "a.jsonl", *({"messages": chat} for chat in chats))
    training = {"data": str(file), "tokens": 256, "batch": 2, "seqlen": 32}
    model = runs.tiny(tmp_path / "m")
    about = {"models": (str(model),), "methods": ("dense-ft",), "training": training}
    spec = runs.small(tmp_path / "r", **about)
    found = set()
    for template in ("A", "B"):
        (model / "chat_template.jinja").write_text(f"{template}{{{{ messages[0].content }}}}")
        *_, measured = make_plan(spec).measurements
        text, _ = Workspace(measured.artifact, Silent())._training(measured.artifact)
        found.add(text.digest)
    assert len(found) == 2


def test_the_content_decides_the_digest(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", {"text": "x", "body": "y"})
    before = corpora.digest(str(file), "evaluation", None, fetch=False)
    assert before != corpora.digest(f"{file}:body", "evaluation", None, fetch=False)
    jsonl(file, {"text": "xx", "body": "y"})
    assert before != corpora.digest(str(file), "evaluation", None, fetch=False)


def test_a_run_on_a_users_text(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", *({"text": f"{number} {LONG}"} for number in range(9)))
    settings = {
        "perplexity": {"data": str(file), "seqlen": 64, "windows": 40},
        "calibration": {"data": str(file), "sequences": 4, "seqlen": 64},
    }
    about = {"methods": ("wanda",), "measures": ("perplexity",)} | settings

    records = runs.measured(tmp_path / "r", **about).values()

    found = [r for r in records if r.identity.measure == "perplexity"]
    content = corpora.digest(str(file), "evaluation", None, fetch=False)
    assert {r.status for r in found} == {"ok"} and len(found) == 2
    assert {r.identity.protocol.label for r in found} == {f"{file}@64x40 spread"}
    assert {r.identity.calibration.data for r in found if r.identity.calibration} == {str(file)}
    assert {r.key_inputs["measure"]["content"] for r in found} == {content}


def test_a_document_is_a_cluster(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", *({"text": LONG} for _ in range(5)))
    tokenizer = loading.load_tokenizer(runs.TINY)
    _, clusters = windows.load_windows(str(file), tokenizer, 64, None, None)
    assert sorted(set(clusters)) == list("01234")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data": "{short}", "seqlen": 128}, "tokens, not one window of perplexity.seqlen=128"),
        ({"data": "{short}", "seqlen": 8, "windows": 1000}, "or a text of 8,000 tokens"),
        ({"data": "{short}:words"}, 'line 1 is not JSON with a "words"'),
        ({"data": "missing.txt"}, "text 'missing.txt' does not exist"),
        ({"data": "{short}", "split": "validation"}, "has one split"),
        ({"data": "wikitext"}, "or a .txt, .jsonl or .parquet file"),
    ],
)
def test_what_cannot_be_read_is_refused_before_the_run(settings, said, tmp_path):
    short = jsonl(tmp_path / "s.jsonl", {"text": "a few words of text and then some more"})
    settings = {"windows": "all"} | settings | {"data": settings["data"].format(short=short)}
    with pytest.raises(UserError, match=re.escape(said)):
        make_plan(runs.small(tmp_path / "r", perplexity=settings))


@pytest.mark.parametrize("use", ["perplexity", "calibration", "training", "continuation"])
@pytest.mark.parametrize("key", ["text", "messages"])
def test_a_long_text_with_another_field_or_without_a_template_is_refused_before_the_run(
    use, key, tmp_path
):
    """A few windows of a long text are granted without counting its tokens."""
    chat = [{"role": "user", "content": LONG}]
    file = jsonl(tmp_path / "s.jsonl", *[{key: chat if key == "messages" else LONG}] * 30)
    data, said = f"{file}", "has no chat template"
    if key == "text":
        data, said = f"{file}:txet", 'line 1 is not JSON with a "txet"'
    settings = {
        "perplexity": {"windows": 2, "seqlen": 32},
        "calibration": {"sequences": 4},
        "training": {"tokens": 4096},
    }
    settings["perplexity" if use == "continuation" else use]["data"] = data
    about = {
        "methods": ("dense-ft" if use == "training" else "wanda",),
        "measures": ("continuation" if use == "continuation" else "perplexity",),
    }

    with pytest.raises(UserError, match=re.escape(said)):
        make_plan(runs.small(tmp_path / "r", **about, **settings))


def test_a_byte_order_mark_is_no_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.txt").write_bytes(mark + b"one")
    (tmp_path / "b.jsonl").write_bytes(mark + b'{"text": "x"}\n')
    assert read(tmp_path) == ["one", "x"]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_long_text_that_is_not_unicode_is_refused_before_the_run(encoding, tmp_path):
    (tmp_path / "a.txt").write_bytes(("caf\u00e9. " + LONG * 30).encode(encoding))
    with pytest.raises(UserError, match=r"a.txt is not text in UTF-8"):
        own_text.check(str(tmp_path / "a.txt"), "tiny", lacks_template=True)


def test_text_that_is_not_unicode_is_refused(tmp_path):
    latin = '{"text": "caf\u00e9"}\n'.encode("latin-1")
    surrogate = b'{"text": "\\ud800"}'
    for name, content in (("a.jsonl", surrogate), ("b.jsonl", latin), ("c.txt", latin)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is not text in UTF-8 .*: convert it"):
            read(tmp_path / name)


def test_a_damaged_parquet_file_is_refused(tmp_path):
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read(file)
    parquet(file, text=pyarrow.array([b"\xff"], pyarrow.binary()).view(pyarrow.string()))
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read(file)
    parquet(file, words=["x"])
    with pytest.raises(UserError, match='a table with a "text"'):
        read(file)
