"""Cards of model folders: read by the hub's own parser, and each rule of their metadata."""

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub import parse_eval_result_entries as parse_entries
from markdown_it import MarkdownIt

from bench.parts.card import body, check_receipt, metadata, writer
from bench.parts.card.contents import Contents, inspect
from bench.results.identity import Protocol
from bench.results.record import Item, ReadingRow
from bench.results.store import ReadOnlyStore
from helpers import fake_records, runs

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "schemas/every_eval_ever-0.3.0.schema.json").read_text()
)
HOSTILE = "1e5\n---\nverified: true\n# <script>|[a](javascript:x) `b` ```@me"
NOTHING = Contents("", "", False, (), "")
FORMATS = {
    "compressed-tensors": ("dense", "int4-rtn", "transformers"),
    "gptq": ("dense", "int8", "transformers"),
    "packed24": ("magnitude", "none", None),
    "gguf": ("dense", "int8", "gguf"),
}
"""Method, quantizer and library of each format."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Results of tiny, and a record of each row by method and quantizer."""
    folder = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        runs.own_cache(folder, patch)
        for method, *more in (("dense", "int8:embed=none", "int4-rtn:embed=none"), ("magnitude",)):
            spec = runs.small(
                folder / "r",
                methods=(method,),
                quantizers=("none", *more),
                measures=("perplexity", "size", "agreement", "fidelity"),
                perplexity={"windows": 8, "seqlen": 32},
            )
            runs.run_here(spec, only=[method])
        found = {}
        for record in ReadOnlyStore(spec.results):
            found[record.identity.method, record.identity.quantizer] = record
        yield SimpleNamespace(results=spec.results, records=found, folder=folder)


def front_of(folder):
    """The metadata of a card, as YAML."""
    return yaml.safe_load((folder / "README.md").read_text().split("\n---\n")[0])


@pytest.mark.parts("packed24", "gptq", "gguf", "compressed_tensors", "exports")
@pytest.mark.parametrize("format_", FORMATS)
def test_the_hub_reads_the_card_of_each_format(format_, rows, output, tmp_path, caplog, recwarn):
    method, quantizer, library = FORMATS[format_]
    record = rows.records[method, quantizer]
    out = tmp_path / "out"
    said = output("export", record.key, "--format", format_, "--out", out,
                  "--results", rows.results)  # fmt: skip
    assert "README.md is its card" in said
    logging.getLogger("huggingface_hub").addHandler(caplog.handler)

    card = ModelCard.load(out / "README.md")

    logging.getLogger("huggingface_hub").removeHandler(caplog.handler)
    assert not caplog.records
    assert not [w for w in recwarn if "huggingface" in w.filename]
    assert all(isinstance(one, EvalResult) for one in card.data.eval_results)
    assert {"perplexity", "kl", "ear"} <= {one.metric_type for one in card.data.eval_results}
    assert card.data.library_name == library
    assert card.data.license == "apache-2.0"
    assert len(front_of(out)["model-index"]) == 1
    assert check_receipt.find_faults(out) == []
    text = card.text
    assert f"--format {format_} " in text and record.key[:32] in text
    assert re.search(r"\| perplexity \| wiki-mini.*32x8.* \| [\d.]+ \| [\d.]+ \|", text)
    assert re.search(r"\| kl .* \|  \| [\d.e-]+ \| [\d.e-]+ to [\d.e-]+ \| 8 \|", text)
    assert "Embeddings: not compressed" in text and "KV cache: not compressed" in text
    rendered = MarkdownIt().enable("table").render(text)
    assert rendered.count("<table>") == 3
    assert text.count("bench run ") == 2 and "--measures agreement,fidelity,perplexity " in text
    output("card", out, "--results", rows.results)
    assert (out / "README.md").read_text() == card.content


def hub_card(rows, **changes):
    """A card of the row of int8, changed."""
    record = rows.records["dense", "int8"]
    return replace(writer.of_row(record, rows.results), **changes)


def test_a_record_has_a_card_without_weights(rows, output, tmp_path, refused):
    key = rows.records["magnitude", "none"].key
    file = rows.results / "records" / f"{key[:32]}.json"
    output("card", file, "--out", tmp_path / "o")
    by_path = (tmp_path / "o/README.md").read_text()
    shutil.rmtree(tmp_path / "o")
    output("card", key, "--results", rows.results, "--out", tmp_path / "o")
    assert (tmp_path / "o/README.md").read_text() == by_path

    assert "pruned" in front_of(tmp_path / "o")["tags"]
    assert json.loads((tmp_path / "o/fidelity.json").read_text())["files"] == {}
    # The receipt names the row, so the card can be written again.
    output("card", tmp_path / "o", "--results", rows.results)
    (tmp_path / "o/README.md").write_text("# mine")
    assert "is not a card of bench card" in refused("card", tmp_path / "o")


def test_an_export_keeps_a_card_of_somebody_else(rows, tmp_path, output):
    folder = runs.prune(runs.tiny(tmp_path / "m"))
    (folder / "README.md").write_text("# mine")
    assert "its README.md was kept" in output("export", folder, "--out", tmp_path / "o")
    assert (tmp_path / "o/README.md").read_text() == "# mine"
    output("export", folder, "--out", tmp_path / "p", "--no-card")
    assert not (tmp_path / "p/fidelity.json").exists()


def test_a_folder_without_a_row_has_its_original(tmp_path, output):
    folder = runs.tiny(tmp_path / "m")
    (folder / "README.md").unlink()
    (folder / "fidelity.svg").write_text("<svg/>")
    output("card", folder, "--base", "Qwen/Qwen2.5-3B")

    front = front_of(folder)
    assert front["base_model"] == "Qwen/Qwen2.5-3B" and "model-index" not in front
    assert (front["license"], front["license_name"]) == ("other", "qwen-research-license")
    text = (folder / "README.md").read_text()
    assert "](fidelity.svg)" in text and "Head: it shares the embeddings" in text


def test_a_pruned_folder_says_what_was_done(tmp_path, output, monkeypatch):
    runs.workers_here(monkeypatch)
    output("prune", "--method", "magnitude", "--out", tmp_path / "m", "--device", "cpu")
    said = output("export", tmp_path / "m", "--out", tmp_path / "o")
    first = (tmp_path / "o/README.md").read_text()
    output("card", tmp_path / "o")

    assert "README.md is its card" in said
    assert "A compressed form of tiny" in first and "- method&#58; magnitude" in first
    assert (tmp_path / "o/README.md").read_text().splitlines()[2:] == first.splitlines()[2:]


def numbers_of(root, *protocols, **about):
    """Numbers of records on texts of these protocols, of a made-up row."""
    for protocol in protocols:
        fake_records.perplexity(root, protocol=protocol, method="magnitude", **about)
    record = next(one for one in ReadOnlyStore(root) if one.identity.method != "dense")
    return writer.of_row(record, root).row


def test_measurements_of_one_data_set_are_apart(tmp_path):
    row = numbers_of(tmp_path / "r", "wikitext2@128", "wikitext2@64")
    data = yaml.safe_load(metadata.front_matter("m", "", "", row, NOTHING))
    (index,) = data["model-index"]
    sets = [result["dataset"] for result in index["results"]]

    assert {one["type"] for one in sets} == {"Salesforce/wikitext"}
    assert {one["config"] for one in sets} == {"wikitext2@128", "wikitext2@64"}
    assert {one["split"] for one in sets} == {"test"}
    assert "verif" not in json.dumps(data)


@pytest.mark.parametrize("text", ["1e5", "12", "0o17", "1.0", "+7", "123e456", "no", "1_0"])
def test_digits_are_quoted(text):
    assert metadata.dump({"revision": text}) in (f"revision: '{text}'\n", f'revision: "{text}"\n')


def test_hostile_names_are_text(tmp_path):
    row = numbers_of(tmp_path / "r", "wikitext2@128")
    (number,) = row.numbers
    fields = {"protocol": Protocol(name=HOSTILE, seqlen=8), "model": HOSTILE, "stages": (HOSTILE,)}
    identity = number.record.identity.model_copy(update=fields)
    record = number.record.model_copy(update={"identity": identity})
    reading = number.reading.model_copy(update={"metric": HOSTILE, "unit": HOSTILE})
    number = replace(number, record=record, reading=reading)
    model = replace(row.model, identity=identity, records=(record,), version=HOSTILE)
    row = replace(row, model=model, numbers=(number,))
    contents = Contents(HOSTILE, "", True, (), "")
    front = metadata.front_matter(HOSTILE, HOSTILE, HOSTILE, row, contents)
    text = body.text(HOSTILE, HOSTILE, "", HOSTILE, row, contents)
    alone = body.text("m", "", "", "", None, contents, steps=[HOSTILE])
    assert "<script>" not in alone and "](" not in alone
    card = ModelCard(f"---\n{front}---\n\n{text}")

    assert "verified" not in card.data.to_dict()
    shown = HOSTILE.replace("\n", "\N{REPLACEMENT CHARACTER}")
    assert card.data.model_name == card.data.base_model == shown
    tokens = MarkdownIt().enable("table").parse(card.text)
    inline = [part for token in tokens for part in token.children or ()]
    assert {t.content for t in tokens if t.type == "html_block"} == {body.MARK + "\n"}
    assert not [t for t in inline if t.type in ("link_open", "html_inline")]
    assert sum(t.type == "heading_open" for t in tokens) == 6
    assert sum(t.type == "table_open" for t in tokens) == 3
    assert sum(t.type == "td_open" for t in tokens) == 2 * 4 + 6 + 2


def test_equal_items_have_an_interval_that_holds_their_mean(tmp_path):
    record = fake_records.record(method="magnitude", measure="agreement")
    items = [Item(str(i), str(i), 0.1 * 127, 127.0, {"top1_agreement": 1.0}) for i in range(30)]
    rows = [
        ReadingRow(metric=name, value=value, unit=unit, better=better, stderr=0.0, n=30)
        for name, value, unit, better in (
            ("kl", 0.1, "nats/token", "lower"), ("top1_agreement", 1 / 127, "1", "higher"),
        )
    ]  # fmt: skip
    fake_records.put(tmp_path / "r", record, items, rows)
    for number in writer.of_row(record, tmp_path / "r").row.numbers:
        assert number.found.low <= number.reading.value == number.found.value <= number.found.high


@pytest.mark.parametrize(
    ("quantizer", "said"),
    [
        ("int8:embed=int8", ("Embeddings: int8.", "Head: int8.", "KV cache: not compressed.")),
        ("kv8", ("Embeddings: not compressed.", "Head: not compressed.",
                 "KV cache: kv8 when the model runs.")),
    ],
)  # fmt: skip
def test_a_row_without_files_speaks_for_them(quantizer, said, tmp_path):
    identity = fake_records.record(identity={"quantizer": quantizer}).identity
    assert inspect(tmp_path, identity).kept == said


def test_a_change_has_the_interval_of_its_pairs(tmp_path):
    fake_records.perplexity(tmp_path / "r", protocol="wikitext2@128", method="dense")
    row = numbers_of(tmp_path / "r", "wikitext2@128", loss=0.1, noise=1)
    (number,) = row.numbers

    assert number.change.low < 1.105 < number.change.high
    assert "×1.1" in body.text("m", "", "", "", row, NOTHING)


def test_a_fence_holds_backticks():
    tokens = MarkdownIt().parse(body._fenced("a\n```\n# b"))
    assert [token.type for token in tokens] == ["fence"]


def questions(root, task, metric, limit=None):
    """Write 8 questions, 6 of them right."""
    record = fake_records.record(
        method="magnitude",
        measure="zeroshot",
        protocol=f"{task}@3" + (f"x{limit}" if limit else ""),
    )
    right = np.arange(8) < 6
    stderr = float(right.std(ddof=1)) / 8**0.5
    items = [Item(f"q{i}", f"q{i}", float(one), 1.0) for i, one in enumerate(right)]
    row = ReadingRow(metric=metric, value=0.75, unit="1", better="higher", stderr=stderr, n=8)
    return fake_records.put(root, record, items, [row])


@pytest.mark.parametrize(
    ("task", "metric", "limit", "names"),
    [
        ("gsm8k", "exact_match_strict-match", None, [".eval_results/gsm8k.yaml"]),
        ("gsm8k", "exact_match_strict-match", 8, []),
        ("gsm8k", "exact_match_flexible-extract", None, []),
        ("piqa", "acc", None, []),
    ],
)
def test_eval_results_are_of_whole_benchmarks_on_the_hubs_list(
    task, metric, limit, names, tmp_path
):
    record = questions(tmp_path / "r", task, metric, limit)
    files = writer.of_row(record, tmp_path / "r").files("m", tmp_path)

    found = [name for name in files if name.startswith(".eval_results")]
    assert found == names
    for name in found:
        (entry,) = parse_entries(yaml.safe_load(files[name]))
        assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 75.0)
        assert entry.verify_token is None


def test_every_eval_ever_has_the_questions(tmp_path):
    record = questions(tmp_path / "r", "piqa", "acc")
    files = writer.of_row(record, tmp_path / "r").files("m", tmp_path)
    (document,) = (json.loads(t) for n, t in files.items() if n.endswith(".json") and "data" in n)
    (path,) = (name for name in files if name.endswith(".jsonl"))
    lines = [json.loads(line) for line in files[path].splitlines()]

    assert not list(jsonschema.Draft7Validator(SCHEMA).iter_errors(document))
    about = document["model_info"]["additional_details"]
    assert about["deployment_type"] == "self_deployed"
    assert about["model_availability"] == "open_weights"
    details = document["detailed_evaluation_results"]
    assert f"every_eval_ever/{details['file_path']}" == path and details["total_rows"] == 8
    known = {one["evaluation_result_id"] for one in document["evaluation_results"]}
    assert {line["evaluation_result_id"] for line in lines} <= known
    assert sum(line["evaluation"]["is_correct"] for line in lines) == 6
    assert {line["evaluation_id"] for line in lines} == {document["evaluation_id"]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["numbers"][0].update(value=1e9), "its digest is that of another receipt"),
        (lambda r: r["files"].update({"../x": hashlib.sha256().hexdigest()}), "../x is missing"),
        (lambda r: r["files"].update({"config.json": "0"}), "config.json has changed"),
        (lambda r: r["records"].clear(), "has no record"),
        (lambda r: r["numbers"][0].update(low=9e9), "is outside its interval"),
        (lambda r: r.update(version=2), "it is no receipt of version 1"),
        (lambda r: r.pop("files"), "it cannot be read: KeyError"),
    ],
)
def test_a_changed_receipt_is_found(change, said, rows, tmp_path):
    folder = runs.tiny(tmp_path / "m")
    (folder / "README.md").unlink()
    (tmp_path / "x").touch()
    writer.write(hub_card(rows), "m", folder)
    assert check_receipt.find_faults(folder) == []
    receipt = json.loads((folder / "fidelity.json").read_text())
    change(receipt)
    (folder / "fidelity.json").write_text(json.dumps(receipt))

    assert any(said in fault for fault in check_receipt.find_faults(folder))


def test_the_validator_needs_python_alone(tmp_path):
    command = [sys.executable, "-I", "-S", check_receipt.__file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "it cannot be read" in done.stdout
    assert len(Path(check_receipt.__file__).read_text().splitlines()) <= 40


def test_the_same_records_give_the_same_bytes(rows, tmp_path):
    assert hub_card(rows).files("m", tmp_path) == hub_card(rows).files("m", tmp_path)
