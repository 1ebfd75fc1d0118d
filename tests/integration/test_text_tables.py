"""The table of texts, from records that are made up."""

from bench.comparing.known_variance import learn
from helpers import fake_records

SCRIPT = "text_tables"


def write(folder, text, losses):
    """Write perplexities of a dense model, and of rows with these losses in nats, by quantizer
    and calibration text."""
    for (quantizer, calibration), loss in {("none", ""): 0.0, **losses}.items():
        about = {"quantizer": quantizer, "protocol": f"{text}@128"}
        if calibration:
            about["calibration"] = calibration
        fake_records.perplexity(folder, loss, made=calibration, method="dense", identity=about)


def test_what_rows_lose_of_two_texts(script, monkeypatch, tmp_path):
    prose, code = tmp_path / "prose", tmp_path / "code"
    gptq, plain = ("int4-gptq", "wiki-mini"), ("int4-rtn", "")
    write(prose, "wikitext2", {gptq: 0.02, plain: 0.2, ("int8", ""): 0.1})
    write(code, "code", {gptq: 0.4, ("int4-gptq", "code"): 0.1, plain: 0.2})
    results = script.merge(f"{prose},{code}")
    monkeypatch.setattr("page_records.known_variance", lambda: learn(results))

    lines = script.by_text(str(code), str(prose)).splitlines()

    assert lines[2] == (
        "Rows that lose more of code than of wikitext2: calibrated on wiki-mini 1 of 1, 1 beyond "
        "the intervals; without calibration 0 of 1, 0 beyond the intervals. Calibrated on code "
        "instead, 1 of 1 lose less of code, 1 beyond the intervals."
    )
    assert lines[4] == "| | calibrated on | wikitext2 | code |"
    assert lines[6].startswith("| int4-gptq | `code` | – | 1.1")
    assert lines[7].startswith("| int4-gptq | `wiki-mini` | 1.0") and "| **1.4" in lines[7]
    assert lines[8].startswith("| int4-rtn |  | 1.2") and "**" not in lines[8]
