"""`bench pick` on the command line: what it prints, its JSON, its exit codes and its errors."""

import json
import shutil

import pytest

from bench.stats import bootstrap
from helpers import fake_records, reports


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    return reports.compressed(tmp_path_factory.mktemp("filled") / "run")


@pytest.fixture
def here(tmp_path, monkeypatch, filled, known_noise):
    """A folder with results. Their rows are far apart or alike, so few draws tell which."""
    monkeypatch.setattr(bootstrap, "MAX_DRAWS", 4000)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(filled, tmp_path / "results/run")
    return tmp_path


def test_the_answer_in_sentences(cli, here):
    code, out, _ = cli("pick --model tiny --max-bits 9.5 --max-loss 15% --max-worst-drop 5pp")
    out = " ".join(out.split())
    assert code == 0
    assert "3 of 5 compressed rows meet these limits: at most 9.5 bits per weight" in out
    assert (
        "First: dense int8 of tiny." in out
        and "Nearest row that fails: poor 2:4: loss 35.0%" in out
    )
    assert "worst task's drop 8.0 pp" in out and "limit 5 pp" in out
    assert "Left out, not measured (bits per weight" not in out, "unsized fails another limit"
    assert "Left out, their weights break their pattern: broken 2:4." in out
    assert "Make it: bench prune --method dense --model tiny --quant int8" in out


def test_json_has_the_same_answer(cli, here):
    code, out, _ = cli("pick", "--model", "tiny", "--pattern", "2:4", "--max-loss", "15%", "--json")
    answer = json.loads(out)
    assert code == 0 and answer["limits"] == {"max_loss": 0.15}
    assert answer["protocol"] == "wiki-mini@128, float32, cpu"
    best = [(m["row"], m["tied_with_best"]) for m in answer["meets"]]
    assert best == [("small 2:4 int4", True), ("good 2:4", True)]
    assert answer["meets"][1]["tokens"] == 5000 and answer["meets"][1]["seconds"] == 1.5
    assert answer["meets"][1]["speedup"]["low"] > 1.4 and answer["meets"][0]["speedup"] is None
    assert answer["nearest"]["row"] == "poor 2:4" and answer["nearest"]["fails"] == ["max_loss"]
    assert answer["pattern_broken"] == ["broken 2:4 (pattern broken)"]


def test_json_has_every_row_that_was_not_measured(cli, here):
    _, out, _ = cli("pick", "--model", "tiny", "--min-speedup", "9", "--json")
    lacking = json.loads(out)["not_measured"]
    assert {"row": "poor 2:4", "lacks": ["speedup"]} in lacking and len(lacking) == 4


def test_nothing_meets(cli, here):
    code, out, err = cli("pick", "--model", "tiny", "--max-bits", "3", "--max-loss", "0%")
    assert code == 1 and "None of 5 compressed rows meets" in out
    assert "Nearest row that fails:" in out
    assert err.strip() == "bench: no row of tiny meets the limits"
    code, out, _ = cli("pick", "--model", "tiny", "--max-bits", "3", "--max-loss", "0%", "--json")
    assert code == 1 and json.loads(out)["meets"] == []


def test_a_device_or_a_protocol(cli, refused, here):
    run = here / "results/run"
    fake_records.perplexity(run, 0.2, method="good", seed=0, protocol="wiki-mini@64")
    _, out, _ = cli("pick", "--model", "tiny", "--protocol", "wiki-mini@64", "--json")
    assert [m["row"] for m in json.loads(out)["meets"]] == ["good 2:4"]
    also = {"dtype": "bfloat16", "arithmetic": "float32"}
    only = {"dtype": "bfloat16"}
    fake_records.perplexity(run, 0.3, method="rounded", seed=0, identity=only)
    for method in ("better", "best"):
        fake_records.perplexity(run, 0.1, method=method, seed=0, identity=also)
    _, out, _ = cli("pick --model tiny --protocol", "wiki-mini@128, bfloat16, cpu", "--json")
    # The one of this name, and not the first that fits.
    assert [m["row"] for m in json.loads(out)["meets"]] == ["rounded 2:4"]
    assert cli("pick", "--model", "tiny", "--device", "EPYC", "--min-speedup", "1.4")[0] == 0
    err = refused("pick", "--model", "tiny", "--device", "H100")
    assert "not measured under 'H100'" in err and "wiki-mini@128, float32, cpu" in err


def test_a_pipe_is_as_wide_as_a_terminal_of_80(cli, here):
    """Other tables in a pipe are as wide as they need to be, but this answer is sentences around a
    table."""
    _, out, _ = cli("pick", "--model", "tiny", "--max-bits", "20")
    assert max(map(len, out.splitlines())) <= 80 and "worst task, pp" in out and "≥ 1.5 s" in out


def test_searches_are_not_picked_from(cli, here):
    fake_records.perplexity(here / "results/lr", 0.001, method="tuned", seed=0)
    (here / "results/lr/about.toml").write_text('kind = "search"\n')
    _, out, _ = cli("pick", "--model", "tiny", "--json")
    assert "tuned" not in out


def test_only_the_items_of_its_model_are_read(cli, refused, here):
    """The folders of a repository hold thousands of items of other models."""
    other = fake_records.perplexity(
        here / "results/other", 0.1, method="good", seed=0, identity={"model": "other"}
    )
    (items,) = (here / "results/other/items").iterdir()
    items.write_bytes(bytes(items.stat().st_size))
    assert other.items and cli("pick", "--model", "tiny", "--json")[0] == 0
    assert "checksum mismatch" in refused("pick", "--model", "other", "--json")


def test_rows_calibrated_on_different_texts_compete(cli, here):
    """The best of them is first, with its text, unless the protocol names a text."""
    results = here / "results/texts"
    fake_records.perplexity(results, method="dense", identity={"model": "other"})
    for text, rise in (("code@128x64", 0.3), ("wiki-mini@128x64", 0.05)):
        identity = {"model": "other", "calibration": text}
        fake_records.perplexity(results, rise, method="good", seed=0, identity=identity)

    code, out, _ = cli("pick", "--model", "other")
    assert code == 0 and "2 of 2 compressed rows" in out
    assert "First: good 2:4 wiki-mini of other." in " ".join(out.split())

    _, out, _ = cli("pick", "--model", "other", "--protocol", "calibrated on code")
    assert "1 of 1 compressed rows" in out and "First: good 2:4 of other." in out


def test_commands_can_be_copied(cli, here, monkeypatch):
    """Lines end in a backslash, and no line is wider than a terminal of 80."""
    monkeypatch.chdir(reports.ROOT)
    _, out, _ = cli("pick --model smollm2-135m-instruct-q4 --pattern 2:4 --results results/main")
    command = out[out.index("Make it:\n") + 9 : out.index("Export it:")]
    lines = command.rstrip().splitlines()
    assert len(lines) > 2 and max(map(len, lines)) <= 80
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert lines[0].startswith("  bench prune --method recon --model smollm2-135m-instruct-q4")


def test_a_model_without_records_is_answered_with_what_to_run(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = "meta-llama/Llama-3.1-8B-Instruct"
    code, out, _ = cli("pick", "--model", model, "--engine", "vllm", "--max-mb", "6000")
    out = " ".join(out.split())

    assert code == 1 and "From papers about LLaMA3.1-8B" in out
    assert "The nearest model measured here is qwen2.5-coder-1.5b-instruct-q4" in out
    assert f"bench run --model {model} --methods awq --quant int4-gptq" in out.replace(" \\", "")

    _, out, _ = cli("pick", "--model", model, "--json")
    answer = json.loads(out)
    assert answer["measured"] is False and answer["papers"] and answer["run"]
    code, _, err = cli("pick", "--model", "tinny")
    assert code == 2 and "unknown model 'tinny'" in err


def test_rows_of_an_engine(cli, here):
    code, out, _ = cli("pick", "--model", "tiny", "--engine", "tensorrt", "--json")
    assert code == 0 and {m["pattern"] for m in json.loads(out)["meets"]} == {"2:4"}
    code, _, err = cli("pick", "--model", "tiny", "--engine", "vlm")
    assert code == 2 and "did you mean vllm" in err
