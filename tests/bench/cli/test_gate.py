"""bench gate: its exit codes, its config, what it prints in each form, and suspects that are
measured again."""

import json
import shutil
from xml.etree import ElementTree

import pytest

from bench.results.store import Store
from helpers import fake_records, runs

pytestmark = pytest.mark.usefixtures("cache")


def call(cli, roots, *more):
    return cli("gate", "--baseline", roots[0], "--results", roots[1], *more)


def test_exit_codes(roots, cli, tmp_path):
    fake_records.accuracy(roots[0])
    fake_records.accuracy(roots[1], 22, 10, made="b")

    assert call(cli, roots)[0] == 0
    assert call(cli, roots, "--strict")[0] == 1
    (tmp_path / "g.toml").write_text("strict = true\n")
    assert call(cli, roots, "--config", tmp_path / "g.toml")[0] == 1
    (tmp_path / "g.toml").write_text("[margins]\nacc = 0.2\n")
    assert "1 OK" in call(cli, roots, "--config", tmp_path / "g.toml", "--strict")[2]
    shutil.rmtree(roots[1])
    fake_records.accuracy(roots[1], 90, 0, made="b")
    code, out, err = call(cli, roots)
    assert code == 1 and "90 lost, 0 gained" in out and "failed: 1 REGRESSION" in err


@pytest.mark.parts("speed")
def test_a_margin_may_name_a_timing_and_a_metric_of_another_package(roots, cli, tmp_path):
    for root in roots:
        fake_records.counted(root, "max_norm", 1.0)
    (tmp_path / "g.toml").write_text("[margins]\nmax_norm = 0\nspeedup = 0.1\nlatency = 1\n")

    assert call(cli, roots, "--config", tmp_path / "g.toml")[0] == 0


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("sound")
    fake_records.accuracy(root)
    return root


@pytest.mark.parametrize(
    ("toml", "part"),
    [
        ("alpha = 2\n", "invalid alpha = 2: must be below 1"),
        ("[margin]\nacc = 0.1\n", "margins"),
        ("[margins]\nacc = -1\n", "invalid margins.acc = -1: must be at least 0"),
        ("[tolerances]\nacc = inf\n", "invalid tolerances.acc = inf: must be a finite number"),
        ("[seed_noise]\nacc = 1e308\n",
         "invalid seed_noise.acc = 1e+308: must be at most 1000000000"),
        ("[margins]\nperplexty = 0.1\n",
         "invalid margins.perplexty = 0.1: unknown metric 'perplexty': did you mean"),
        ("not_comparable = ['perplexty']\n",
         "invalid not_comparable: unknown metric 'perplexty': did you mean perplexity"),
    ],
)  # fmt: skip
def test_a_bad_config_is_a_sentence(sound, cli, tmp_path, toml, part):
    (tmp_path / "g.toml").write_text(toml)

    code, _, err = call(cli, (sound, sound), "--config", tmp_path / "g.toml")

    assert code == 2 and len(err.splitlines()) == 1
    assert part in err and "g.toml" in err


HOSTILE = "<img src=x onerror=alert(1)>|`[a](b)\n::error::x @all \x1b[31m ]]> %0A"


def test_hostile_names_stay_text(roots, cli, tmp_path):
    fake_records.perplexity(roots[0], method=HOSTILE)
    fake_records.perplexity(roots[1], 0.05, made="b", noise=1, method=HOSTILE)
    fake_records.counted(roots[0], "violated_groups", 0.0, method=HOSTILE)
    fake_records.failed(roots[1], HOSTILE, measure="pattern", protocol="targets", method=HOSTILE)

    code, out, _ = call(
        cli, roots, "--github", "--md", tmp_path / "c.md", "--junit", tmp_path / "j.xml"
    )

    assert code == 1 and "\x1b" not in out
    commands = [line for line in out.splitlines() if line.startswith("::")]
    assert [c.split(" ")[0] for c in commands] == ["::error", "::error", "::notice"]
    assert all("%250A" in c for c in commands[:2])
    text = (tmp_path / "c.md").read_text()
    assert "<img" not in text and "@all" not in text and "[a]" not in text and "\x1b" not in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4 and {line.count("|") for line in table} == {10}
    cases = ElementTree.parse(tmp_path / "j.xml").getroot().findall(".//testcase")
    assert len(cases) == 2
    assert all("<img src=x onerror=alert(1)>" in c.get("classname") for c in cases)
    assert sorted(c.find("failure").get("type") for c in cases) == ["NEW_FAILURE", "REGRESSION"]


def test_a_file_named_dash_is_stdout(roots, cli, tmp_path, monkeypatch):
    for root in roots:
        fake_records.counted(root, "violated_groups", 0.0)
    monkeypatch.chdir(tmp_path)

    code, out, _ = call(cli, roots, "--junit", "-")

    assert code == 0 and ElementTree.fromstring(out).get("tests") == "1"
    assert not (tmp_path / "-").exists()


@pytest.mark.full
def test_a_suspect_is_measured_again(tmp_path, monkeypatch, cli):
    """A number that was wrong once is not called a regression; a fault that stays is."""
    runs.own_cache(tmp_path / "own", monkeypatch)
    spec = runs.small(tmp_path / "before", measures=("perplexity",))
    runs.run_here(spec, only=("magnitude",))
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    store = Store(tmp_path / "after")
    victim = next(r for r in store if r.identity.measure == "perplexity")
    items = fake_records.read_items(store.root / "items" / victim.items.file)
    victim.readings[0].value **= 1.02
    victim.readings[0].stderr = None
    store.write(victim, tuple(i._replace(value=i.value * 1.02) for i in items))
    roots = tmp_path / "before", tmp_path / "after"

    assert call(cli, roots)[0] == 1
    code, _, err = call(cli, roots, "--rerun-suspects")

    assert code == 0 and f"measured again: {victim.key[:12]}, ok" in err
    assert store.get(victim.key).readings[0].value == victim.readings[0].value


def test_what_cannot_be_measured_again_stays_a_regression(roots, cli):
    fake_records.perplexity(roots[0])
    fake_records.perplexity(roots[1], 0.03, made="b", noise=1)

    code, out, err = call(cli, roots, "--rerun-suspects", "--json")

    assert code == 1 and "cannot measure again" in err
    printed = json.loads(out)
    assert printed["passed"] is False and printed["counts"] == {"REGRESSION": 1}
    (row,) = printed["rows"]
    assert row["low"] < row["value"] < row["high"] and row["n"] == 30
    assert row["value"] == pytest.approx(1.03, abs=0.002)
    assert row["effect"] == "ratio" and row["margin"] == 0.005


def test_unknown_metrics_are_named_and_not_judged(roots, cli):
    for root, value in zip(roots, (1.0, 2.0), strict=True):
        fake_records.counted(root, "strangeness", value)
        fake_records.counted(root, "violated_groups", 0.0, method="x")

    code, _, err = call(cli, roots)

    assert code == 0 and "no margin for strangeness" in err
