"""README and docs/: short, no dead link, no unknown command, nothing fetched from elsewhere."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer

from bench.catalog import registry
from bench.cli import main
from bench.comparing.known_variance import learn
from bench.formats.contract import ModelFormat
from bench.inputs.models import ALIASES
from bench.inputs.shapes import known_shapes
from bench.measures.windowed import mean_and_stderr
from bench.results.identity import Protocol
from helpers import fake_records

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README_LINES, README_WORDS = 110, 700
SEARCHED = ("my GPU", "vLLM", "llama.cpp")
"""Words for which the search of the site must find a heading."""
PROGRAM = typer.main.get_command(main.app)


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DOCS = load(ROOT / "scripts/docs.py", "docs_script")
REFERENCE = load(ROOT / "scripts/reference.py", "reference_script")


def commands():
    """(page, command) for each line of a bash block that runs bench."""
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|\|\|", line.partition("#")[0]):
                    if part.split()[:1] == ["bench"]:
                        yield pytest.param(part.strip(), id=f"{page.name}: {part.strip()[:60]}")


def test_readme_is_short():
    lines = len((ROOT / "README.md").read_text().splitlines())
    words = len((ROOT / "README.md").read_text().split())
    assert (lines <= README_LINES, words <= README_WORDS) == (True, True), (
        f"README.md has {lines} lines and {words} words: move something to a page of docs/"
    )


def test_headings_have_the_words_that_people_search_for():
    pages = [page.read_text() for page in PAGES if page.parent.name == "docs"]
    headings = [line for page in pages for line in page.splitlines() if line.startswith("#")]
    assert [word for word in SEARCHED if not any(word in line for line in headings)] == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent == ROOT], ids=lambda p: p.name)
def test_links_of_pages_that_are_not_built(page):
    """Sphinx checks those of docs/."""
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_folders_that_contributors_are_sent_to_exist():
    named = re.findall(
        r"`((?:tests|bench|baselines|methods|docs|scripts|benchmarks)/[\w/.]*)`",
        (ROOT / "CONTRIBUTING.md").read_text(),
    )
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists() and "row_norm" not in name] == []


@pytest.mark.parametrize("command", list(commands()))
def test_commands_are_those_of_the_program(command):
    """Options and arguments are parsed; nothing runs. Commands of a part may be missing with it."""
    words = shlex.split(command)[1:]
    here = PROGRAM
    if any(words[0] in names for names in main.GROUPS.values()) and words[0] not in here.commands:
        pytest.skip(f"without the command {words[0]}")
    with here.make_context("bench", list(words), resilient_parsing=True) as context:
        while words and hasattr(here, "commands"):
            name = words.pop(0)
            assert name in here.commands, f"bench has no command {name}"
            here = here.commands[name]
        here.make_context(here.name, words, parent=context)


@pytest.mark.parametrize("section", REFERENCE.FLAGS)
def test_what_no_page_describes_is_described_from_its_code(section, monkeypatch):
    """A new entry of the catalog needs no page."""
    monkeypatch.setattr(REFERENCE, "_pages", dict)
    text = REFERENCE.unwritten(section)
    for name, entry in registry.SECTIONS[section].items():
        assert f"### {name}\n\n{REFERENCE.escape(entry.about)}" in text
        assert f"[{name}](#{name})" in REFERENCE.overview(section)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_plan_that_is_shown_has_its_model(page):
    """`bench plan` downloads no model: it needs its shapes, or the model."""
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
        chosen = re.search(r"^MODEL=(\S+)", block, re.MULTILINE)
        for name in re.findall(r"bench plan .*--model (\S+)", block):
            name = chosen[1] if chosen and name == "$MODEL" else name
            planned = name in known_shapes() or name.endswith("/") or f"bench pull {name}" in block
            assert planned or ALIASES[name].source == "bundled"


@pytest.mark.parametrize("page", ["start", "commands"])
def test_every_format_of_a_model_is_described(page):
    text = (ROOT / f"docs/{page}.md").read_text()
    exports = registry.entries("exports").items()
    models = [name for name, entry in exports if issubclass(registry.load(entry), ModelFormat)]
    assert [name for name in models if not re.search(rf"\b{name}\b", text)] == []


def test_facts_of_a_method():
    text = REFERENCE.facts("methods", "sparsegpt")
    assert "`sparsegpt:mask-only` (`mask_only=true`)" in text
    assert "https://arxiv.org/abs/2301.00774" in text
    assert "| `damping` | `0.01` | number from 0 to 1 |" in text
    assert "estimated cost**: 2 passes" in text


def test_every_name_has_one_page():
    """Two headings of one name would make links ambiguous."""
    found = [pair for page in PAGES for pair in REFERENCE.FACTS.findall(page.read_text())]
    assert len(found) == len(set(found))
    for section, name in found:
        page = next(p for p in PAGES if f"<!-- facts: {section} {name} -->" in p.read_text())
        assert f"\n## {name}\n" in page.read_text(), (
            f"{page.name} needs the heading '## {name}': the overview links to it"
        )


def test_every_command_is_in_the_reference():
    text = REFERENCE.commands()
    groups = [("bench", PROGRAM)]
    for path, command in groups:
        if path != "bench":
            assert re.search(rf"^####? `{path}`$", text, re.MULTILINE)
        groups += [(f"{path} {name}", c) for name, c in getattr(command, "commands", {}).items()]
    assert len(groups) > 20 and "**Commands**" not in text


def test_every_setting_has_a_meaning():
    rows = re.findall(r"^\| `(\S+)` \|.*\| (.*) \|$", REFERENCE.settings(), re.MULTILINE)
    assert {"methods", "calibration.data", "targets.exclude"} <= {name for name, _ in rows}
    missing = [name for name, meaning in rows if not meaning]
    assert not missing, (
        f"write what {missing} mean: a string below the field, in bench/planning/spec.py"
    )


@pytest.mark.parts("forecasts", "leaderboard", "speed")
def test_what_is_between_two_comments_is_written_again(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    readme = load(ROOT / "scripts/readme.py", "readme_script")
    monkeypatch.setitem(readme.BLOCKS, "facts", lambda *words: f"about {' '.join(words)}\n")
    monkeypatch.setitem(readme.BLOCKS, "unwritten", lambda *_: "")

    page = (
        "<!-- facts: methods a -->\nold\n<!-- /facts -->\n\nText.\n<!-- unwritten: methods "
        "-->\nold\n<!-- /unwritten -->\n"
    )
    assert readme.render(page) == (
        "<!-- facts: methods a -->\n\nabout methods a\n\n<!-- /facts -->\n\nText.\n"
        "<!-- unwritten: methods -->\n<!-- /unwritten -->\n"
    )
    assert readme.render(readme.render(page)) == readme.render(page)


SITE = {
    "index.html": '<link rel="stylesheet" href="a.css"><h2 id="part"></h2><img src="c.svg">'
    '<a href="sub/b.html#there">b</a><a href="https://arxiv.org/abs/2306.11695">a paper</a>'
    '<a href="#part">here</a>',
    "sub/b.html": '<p id="there"><a href="../index.html">back</a></p>',
    "a.css": "p { background: url(data:image/png;base64,AAAA) }",
    "c.svg": '<svg xmlns="http://www.w3.org/2000/svg"/>',
}


INDEX = "index.html"


@pytest.mark.parts("forecasts", "leaderboard", "speed")
def test_two_functions_of_one_block_are_refused(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    readme = load(ROOT / "scripts/readme.py", "readme_script")
    sources = {"a.py": {"best": str}, "b.py": {"worst": str, "best": repr}}
    with pytest.raises(SystemExit) as ended:
        readme.merge_blocks(sources)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said == "scripts/b.py and scripts/a.py both make the block 'best': rename one of them\n"


@pytest.mark.parametrize(
    ("file", "more", "found"),
    [
        (INDEX, "", None),
        (INDEX, '<script src="https://cdn.x/x.js"></script>', "fetches https://cdn.x/x.js"),
        (INDEX, '<img src="//cdn.x/x.png">', "fetches //cdn.x/x.png"),
        (INDEX, '<p style="background: url(https://cdn.x/x.png)">', "fetches https://cdn"),
        (INDEX, '<link rel="preconnect" href="https://fonts.x">', "fetches https://fonts.x"),
        (INDEX, '<link rel="canonical" href="https://here.example">', None),
        ("a.css", '@import "https://fonts.x/x.css";', "fetches https://fonts.x/x.css"),
        (INDEX, '<a href="gone.html">x</a>', "link to gone.html, which does not exist"),
        (INDEX, '<a href="sub/b.html#gone">x</a>', "link to sub/b.html#gone, a heading"),
        ("sub/b.html", '<a href="#part">x</a>', "link to #part, a heading"),
    ],
)
def test_problems_of_a_site(tmp_path, file, more, found):
    for name, text in SITE.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + (more if name == file else ""))
    problems = list(DOCS.problems(tmp_path))
    assert len(problems) == (found is not None)
    assert all(problem.startswith(f"{file}: {found}") for problem in problems)


@pytest.mark.parts("forecasts", "leaderboard", "speed")
def test_a_distance_that_orders_rows_as_the_answers_do_is_ahead(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = load(ROOT / "scripts/track_tables.py", "track_tables_script")
    monkeypatch.setattr(script, "ROW_DRAWS", 200)
    rows = [(mean, i**3, i, 5 - i, i, i, i, i) for i, mean in enumerate((1, 0, 3, 2, 5, 4))]
    found = script._predict([tuple(map(float, row)) for row in rows])
    mean, tail, _, ear, *_ = found
    assert mean.correlations[0].value == pytest.approx(0.8286, abs=1e-4) and not mean.differences
    assert str(tail.correlations[1]) == "1.00 (1.00 to 1.00)"
    assert str(ear.correlations[0]) == "-1.00 (-1.00 to -1.00)"
    assert str(tail.differences[0]).startswith("0.17 (")
    answer = script._answer(found)
    first = "Lost bits per byte: best ordered by KL, 99%; KL, 99.9%; 1 − same top token; perplexity"
    assert answer.startswith(f"{first} (1.00). Beyond noise, 1 − EAR is worse than mean KL.")


@pytest.mark.parts("leaderboard", "long_input")
def test_losses_of_long_input_are_by_kind_of_task_and_leave_out_what_is_at_the_floor(
    monkeypatch, tmp_path
):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    script = load(ROOT / "scripts/long_tables.py", "long_tables_script")
    # Its own noise would be that of all boards.
    monkeypatch.setattr(script, "known_variance", lambda: learn(script.read(str(tmp_path))))
    for task, gain, loss in (
        ("ruler/vt/1024", 2.0, 1.0),
        ("ruler/niah_single_1/1024", 2.0, 0.1),
        ("ruler/cwe/1024", 0.1, 0.0),
        ("reading/squad", 0.0, 0.2),
    ):
        long = task.startswith("ruler")
        measure, metric = ("ruler", "ruler_bits") if long else ("answers", "bits_per_byte")
        for quantizer, more in (("none", 0.0), ("int8", loss)):
            record = fake_records.record(
                "dense", measure=measure, identity={"quantizer": quantizer}
            )
            asked = Protocol(name=task, version="26.3", limit=3)
            record = fake_records.of_identity(record, protocol=asked)
            columns = {
                metric: [1.0 + more, 1.1 + 1.01 * more, 1.2 + 0.99 * more],
                "ruler_gain": [gain - 0.1, gain, gain + 0.1],
            }
            if not long:
                del columns["ruler_gain"]
            items, readings = [], []
            for k, (bits, *gains) in enumerate(zip(*columns.values(), strict=True)):
                beside = {"ruler_gain": gains[0]} if gains else {}
                items.append(fake_records.Item(str(k), str(k), bits, 1.0, beside))
            for name, values in columns.items():
                mean, stderr = mean_and_stderr(values)
                better = "lower" if name == metric else "higher"
                about = {"metric": name, "unit": "bits/byte", "better": better, "n": 3}
                readings.append(fake_records.ReadingRow(**about, value=mean, stderr=stderr))
            fake_records.put(tmp_path, record, items, readings)

    text = script.long_input(str(tmp_path), str(tmp_path))

    assert "| tiny | 1,024 | 1.10 (2.00) | – | – | 1.10 (2.00) | – |" in text
    assert "left out: cwe at 1,024 tokens of tiny." in text
    needle, variables = r"0.10 (0.10 to 0.10)\*", r"**1.00** (0.98 to 1.02)\*"
    reading = r"reading 0.20 (0.20 to 0.20)\*"
    assert f"| {needle} | – | – | {variables} | – | {reading} |" in text
