"""The documented Python API: four names, whatever was imported before them."""

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import bench
import methods
from bench import api


@pytest.mark.parametrize(
    "before", ["", "import bench.plan.spec, bench.run.worker as w, bench.report.table", "from bench import api"]
)
def test_three_packages_are_called_as_functions(before, tmp_path):
    code = f"""
{before}
import bench
planned = bench.plan(bench.Spec(methods=["magnitude"], measures=["size"], quantizers=["none"]))
assert len(planned.measurements) == 4
from bench.run import worker
import bench.run.runner as runner
assert bench.run.worker is worker and runner.__name__ == "bench.run.runner"
try:
    bench.report({str(tmp_path / "nowhere")!r})
except Exception as fault:
    assert type(fault).__name__ == "UserError"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["plan", "report", "run"])
def test_arguments_and_result_are_those_of_the_function(name, monkeypatch):
    monkeypatch.setattr(api, name, lambda *args, **kwargs: (args, kwargs))

    assert getattr(bench, name)(1, key=2) == ((1,), {"key": 2})


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nobody"):
        _ = bench.nobody


def test_importing_bench_imports_nothing_heavy():
    code = "import bench, sys; print(*{'torch', 'pydantic', 'pandas', 'numpy'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


def test_public_names_are_there():
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    public = settings["tool"]["cast-bench"]["public"]

    for name in public:
        module, _, attribute = name.rpartition(".")
        assert getattr(import_module(module), attribute) is not None, name
    assert {n for n in public if n.startswith("methods.")} == {f"methods.{n}" for n in methods.__all__}
    assert {n for n in public if n.startswith("bench.") and n.count(".") == 1} == {f"bench.{n}" for n in bench.__all__}
