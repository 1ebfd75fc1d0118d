"""The package of docs/examples adds one thing of each kind, and each is used."""

from pathlib import Path

import numpy
import pytest

from bench import api
from bench.catalog import registry
from bench.formats import opening
from bench.inputs import models
from helpers import plugins, runs

PAGE = Path(__file__).parents[2] / "docs/adding.md"
MAX_LINES = 41


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """The package of the examples, installed."""
    plugins.install_examples(tmp_path / "site")
    monkeypatch.setenv("LINES_FILE", str(tmp_path / "lines.txt"))
    yield from runs.world(tmp_path / "site", tmp_path, monkeypatch)


def test_the_page_has_each_example_and_each_is_short():
    page = PAGE.read_text()
    for file in plugins.EXAMPLES.glob("*.py"):
        assert f"{{literalinclude}} examples/{file.name}\n" in page
        assert len(file.read_text().splitlines()) <= MAX_LINES, file.name
    sections = plugins.groups_of_examples().keys()
    assert all(f"`{section}`" in page for section in sections)
    assert sections <= registry.SECTIONS.keys()


def test_a_run_with_what_the_package_adds(tmp_path, monkeypatch, output):
    runs.workers_here(monkeypatch)
    results = tmp_path / "r"
    spec = runs.small(
        results,
        methods=("row-norm:power=0.5",),
        quantizers=("none", "signs:embed=signs"),
        measures=("size", "outliers"),
        log_to=("lines",),
    )
    api.execute(spec)

    records = {
        (r.identity.method, r.identity.quantizer, r.identity.measure): r
        for r in runs.ReadOnlyStore(results)
    }
    stored = records["row-norm:power=0.5", "signs:embed=signs", "pattern"].notes["stored"]
    assert stored["form"] == "signs"
    size = records["row-norm:power=0.5", "signs:embed=signs", "size"]
    [embedding] = [r.value for r in size.readings if r.metric == "embedding_bytes"]
    assert embedding == 1024 * (128 / 8 + 2)
    outliers = records["row-norm:power=0.5", "none", "outliers"]
    assert outliers.readings[0].metric == "largest_outlier" and outliers.readings[0].value > 1
    assert "largest_outlier" in (tmp_path / "lines.txt").read_text()
    table = output("report", "--results", results, "--format", "md")
    assert "| bits per weight | bits saved |" in table and "| largest outlier |" in table


def test_a_calibration_text(tmp_path, monkeypatch):
    runs.workers_here(monkeypatch)
    spec = runs.small(
        tmp_path / "r", methods=("wanda",), quantizers=("none",), measures=("size",),
        calibration={"data": "library:0.5,wiki-mini:0.5", "sequences": 2, "seqlen": 64},
    )  # fmt: skip
    records = api.execute(spec).records
    calibrated = [one.identity.calibration for one in records if one.identity.calibration]
    assert {one.data for one in calibrated} == {"library:0.5,wiki-mini:0.5"}


@pytest.mark.full
def test_an_executor(tmp_path, monkeypatch):
    polite = []
    monkeypatch.setattr("os.setpriority", lambda *of: polite.append(of))
    spec = runs.small(
        tmp_path / "r", methods=("dense",), quantizers=("none",), measures=("size",),
        executor="polite",
    )  # fmt: skip
    summary = api.execute(spec)
    assert {record.status for record in summary.records} == {"ok"} and polite


@pytest.mark.parts("exports")
def test_an_export_a_reader_and_a_command(tmp_path, output):
    folder = runs.prune(runs.tiny(tmp_path / "m"))
    output("export", folder, "--format", "npz", "--dtype", "float16", "--out", tmp_path / "npz")
    arrays = numpy.load(tmp_path / "npz/model.npz")
    assert {array.dtype for array in arrays.values()} == {numpy.dtype("float16")}
    every = sum(array.size for array in arrays.values())
    assert output("weights", folder).split() == [str(every)]
    assert int(output("weights", folder, "--layer", "norm")) < every
    plain = opening.open_checkpoint(folder).tensor("model.norm.weight")
    (folder / "halved.txt").touch()
    read = opening.open_checkpoint(folder)
    assert read.form == "halved" and read.tensor("model.norm.weight").equal(2 * plain)


def test_an_alias(output, refused):
    assert "my-org/my-model" in output("ls", "models")
    assert models.find_alias("mine").seqlen == 1024
    assert "mine (my-org/my-model)" in refused("plan", "--model", "mine")
