"""A user's text: each document is a cluster, its content is in the key, and a short file says what
it needs."""

import contextlib
import json
import re
import resource
from types import SimpleNamespace

import pyarrow
import pytest

from bench.execution.job import Silent, Workspace
from bench.inputs import corpora, own_text, windows
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
    import pyarrow as pa
    from pyarrow import parquet as pq

    pq.write_table(pa.table(columns), path)
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
    chats, texts = (
        {key: value}
        for key, value in (("messages", [{"role": "user", "content": "hi"}]), ("text", "hi"))
    )
    for row, known in ((chats, False), (texts, True)):
        file = str(jsonl(tmp_path / f"{known}.jsonl", *[row] * 100))
        assert own_text.has_messages(file) != known
        for check in (
            lambda file=file: windows.check_windows(
                file, 64, 30, read_tokenizer_facts(runs.TINY), None
            ),
            lambda file=file: windows.check_calibration(
                file, 4, 64, read_tokenizer_facts(runs.TINY), None
            ),
        ):
            with pytest.raises(UserError) if known else contextlib.nullcontext():
                check()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 'a' * 3000000000 }}", "MemoryError"),
        ("{{ 'a' * 300000 }}", "makes 300,000 characters"),
        ("{{ messages[0].content * 2 }}", ""),
    ],
)
def test_a_template_is_bounded(template, said):
    from bench.inputs.loading import load_tokenizer

    tokenizer = load_tokenizer(runs.TINY)
    tokenizer.chat_template = template
    render = own_text.template_of(tokenizer)
    before = resource.getrlimit(resource.RLIMIT_AS)
    if said:
        with pytest.raises(UserError, match=said):
            render([{"role": "user", "content": "hi"}])
    else:
        assert render([{"role": "user", "content": "hi"}]) == "hihi"
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_another_template_makes_other_training_text(tmp_path):
    """The tokens of the first are still on disk."""
    model, file = runs.tiny(tmp_path / "m"), tmp_path / "a.jsonl"
    jsonl(
        file,
        *({"messages": [{"role": "user", "content": f"{number} {LONG}"}]} for number in range(9)),
    )
    training = {"data": str(file), "tokens": 256, "batch": 2, "seqlen": 32}
    spec = runs.small(
        tmp_path / "r", models=(str(model),), methods=("dense-ft",), training=training
    )
    found = []
    for template in ("A", "B"):
        (model / "chat_template.jinja").write_text(f"{template}{{{{ messages[0].content }}}}")
        *_, measured = make_plan(spec).measurements
        text, _ = Workspace(measured.artifact, Silent())._training(measured.artifact)
        found.append(text.digest)
    assert len(set(found)) == 2


def test_the_content_decides_the_digest(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", {"text": "x", "body": "y"})
    before = corpora.digest(str(file), "evaluation", None, fetch=False)
    assert before != corpora.digest(f"{file}:body", "evaluation", None, fetch=False)

    jsonl(file, {"text": "xx", "body": "y"})
    assert before != corpora.digest(str(file), "evaluation", None, fetch=False)


def test_a_run_on_a_users_text(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", *({"text": f"{number} {LONG}"} for number in range(9)))
    settings = {"data": str(file), "seqlen": 64, "windows": 40}
    spec = runs.small(
        tmp_path / "r",
        methods=("wanda",),
        measures=("perplexity",),
        perplexity=settings,
        calibration={"data": str(file), "sequences": 4, "seqlen": 64},
    )

    runs.run_here(spec, only=("dense", "wanda"))

    found = [r for r in runs.records(tmp_path / "r").values() if r.identity.measure == "perplexity"]
    assert {r.status for r in found} == {"ok"} and len(found) == 2
    assert {r.identity.protocol.label for r in found} == {f"{file}@64x40"}
    assert {r.identity.calibration.data for r in found if r.identity.calibration} == {str(file)}
    contents = {r.key_inputs["measure"]["content"] for r in found}
    assert contents == {corpora.digest(str(file), "evaluation", None, fetch=False)}


def test_a_document_is_a_cluster(tmp_path):
    from bench.inputs.loading import load_tokenizer

    file = jsonl(tmp_path / "a.jsonl", *({"text": LONG} for _ in range(5)))

    _, clusters = windows.load_windows(str(file), load_tokenizer(runs.TINY), 64, None, None)

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
    settings = settings | {"data": settings["data"].format(short=short)}

    with pytest.raises(UserError) as fault:
        make_plan(
            runs.small(
                tmp_path / "r", methods=("magnitude",), perplexity={"windows": "all"} | settings
            )
        )

    assert said in str(fault.value)


@pytest.mark.parametrize("use", ["perplexity", "calibration", "training", "continuation"])
@pytest.mark.parametrize("key", ["text", "messages"])
def test_a_long_text_with_another_field_or_without_a_template_is_refused_before_the_run(
    use, key, tmp_path
):
    """A few windows of a long text are granted without counting its tokens."""
    chat = [{"role": "user", "content": LONG}]
    file = jsonl(tmp_path / "s.jsonl", *[{key: chat if key == "messages" else LONG}] * 30)
    data, said = (
        (f"{file}:txet", 'line 1 is not JSON with a "txet"')
        if key == "text"
        else (file, "has no chat template")
    )
    table = "perplexity" if use == "continuation" else use
    measures = ("continuation",) if use == "continuation" else ("perplexity",)
    settings = {
        "perplexity": {"windows": 2, "seqlen": 32},
        "calibration": {"sequences": 4},
        "training": {"tokens": 4096},
    }
    settings[table]["data"] = str(data)
    method = "dense-ft" if use == "training" else "wanda"

    with pytest.raises(UserError, match=re.escape(said)):
        make_plan(runs.small(tmp_path / "r", methods=(method,), measures=measures, **settings))


def test_a_byte_order_mark_is_no_text(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.txt").write_bytes(mark + b"one")
    (tmp_path / "b.jsonl").write_bytes(mark + b'{"text": "x"}\n')

    assert read(tmp_path) == ["one", "x"]


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_long_text_that_is_not_unicode_is_refused_before_the_run(encoding, tmp_path):
    (tmp_path / "a.txt").write_bytes(("caf\u00e9. " + LONG * 30).encode(encoding))

    with pytest.raises(UserError, match=r"a.txt is not text in UTF-8 .*: convert it"):
        own_text.check(str(tmp_path / "a.txt"), "tiny", lacks_template=True)


def test_text_that_is_not_unicode_is_refused(tmp_path):
    import pyarrow as pa

    latin = '{"text": "caf\u00e9"}\n'.encode("latin-1")
    for name, content in (
        ("a.jsonl", b'{"text": "\\ud800"}'),
        ("b.jsonl", latin),
        ("c.txt", latin),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is not text in UTF-8 .*: convert it"):
            read(tmp_path / name)
    column = pa.array([b"\xff"], pa.binary()).view(pa.string())
    parquet(tmp_path / "a.parquet", text=column)
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read(tmp_path / "a.parquet")


def test_a_damaged_parquet_file_is_refused(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read(tmp_path / "a.parquet")
    parquet(tmp_path / "a.parquet", words=["x"])
    with pytest.raises(UserError, match='a table with a "text"'):
        read(tmp_path / "a.parquet")


def test_a_small_parquet_file_of_much_text_is_refused(tmp_path, monkeypatch):
    """Its rows refer to one text. Rows are read in small batches."""
    monkeypatch.setattr(own_text, "PARQUET_BYTES", 2**20)
    file = parquet(tmp_path / "a.parquet", text=["a" * 100_000] * 2000)
    assert file.stat().st_size < 10_000
    documents = own_text.read(own_text.parse(str(file)))

    assert len(next(documents)) == 100_000
    assert pyarrow.total_allocated_bytes() < 2**27
    with pytest.raises(UserError, match="repeats text far beyond its size"):
        list(documents)
