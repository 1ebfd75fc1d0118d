"""Formats of exports from another package."""

import json

import pytest

from helpers import runs

LIST = """
import json

from bench.formats.contract import ModelFormat, ResultsFormat
from methods.model.folder import Folder


class Shapes(ModelFormat):
    'The shape of each tensor, as JSON.'

    options = {"values": ("short", "long")}

    def write(self, source, out, options):
        shapes = {name: list(shape) for name, shape in Folder(source.folder).shapes().items()}
        (out / "shapes.json").write_text(json.dumps(shapes))
        source.write_companions(out, {"listed": options.values})
        return f"{len(shapes)} tensors listed"


class Names(ResultsFormat):
    'The name of each model.'

    def documents(self, model, options):
        return {f"{model.name}.txt": model.name}


class Faulty(ModelFormat):
    def write(self, source, out, options):
        return 1 / 0


class Other:
    pass
"""
NAMES = {"shapes": "Shapes", "names": "Names", "faulty": "Faulty", "other": "Other",
         "stored": "Shapes"}  # fmt: skip


@pytest.fixture(autouse=True)
def site(installed):
    installed("listing", LIST, exports={name: f"listing:{kind}" for name, kind in NAMES.items()})


def test_a_format_of_another_package_writes_a_model(tmp_path, output):
    said = output(
        "export", runs.TINY, "--format", "shapes", "--values", "long", "--out", tmp_path / "out"
    )

    assert "38 tensors listed" in said
    assert json.loads((tmp_path / "out/config.json").read_text())["listed"] == "long"
    assert json.loads((tmp_path / "out/shapes.json").read_text())["model.norm.weight"] == [128]


def test_it_is_in_the_help_and_in_errors(tmp_path, output, refused):
    shown = " ".join(output("export", "--help").split())
    assert "shapes: The shape of each tensor, as JSON." in shown
    export = ("export", runs.TINY, "--out", tmp_path / "out")
    assert "did you mean shapes" in refused(*export, "--format", "shape")
    assert " or shapes: leave it out" in refused(*export, "--values", "q")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("faulty", "cannot be used (ZeroDivisionError: division by zero, listing.py line "),
        ("other", "cannot be used (TypeError: listing:Other does not derive from "),
    ],
)
def test_a_fault_is_one_sentence(tmp_path, refused, name, said):
    assert said in refused("export", runs.TINY, "--format", name, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_taken_name_is_ignored(tmp_path, cli):
    said = cli(
        "export", runs.TINY, "--format", "stored", "--values", "long", "--out", tmp_path / "out"
    )[2]
    assert "plug-in stored is ignored: the name is built in" in said
    assert "--values long needs --format " in said


def test_integers_are_no_dense_weights(tmp_path, refused):
    folder = runs.tiny(tmp_path / "m", quantization_config={"quant_method": "gptq"})
    out = tmp_path / "o"

    assert "already quantized (gptq)" in refused("export --format hf", folder, "--out", out)
    assert not out.exists()
