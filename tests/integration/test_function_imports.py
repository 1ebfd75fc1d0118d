"""scripts/function_imports.py: which imports inside functions it reports."""

import pytest

SCRIPT = "function_imports"


@pytest.fixture
def findings(script, tmp_path):
    """findings(name=source, ...): of modules bench/<name>.py."""

    def find(**sources):
        (tmp_path / "bench").mkdir()
        for name, source in ({"__init__": ""} | sources).items():
            (tmp_path / "bench" / f"{name}.py").write_text(source)
        return script.findings(tmp_path)

    return find


def inside(statement):
    return f"def f():\n    {statement}\n"


def test_an_import_that_saves_nothing_is_reported(findings):
    (line,) = findings(a=inside("from bench.b import x"), b="import json\nx = 1\n")
    assert line.startswith("bench/a.py:2: import bench.b at the top")


@pytest.mark.parametrize("statement", ["import bench.b", "from bench import b", "from bench.b import x"])
def test_one_that_brings_in_a_slow_package_is_not(findings, statement):
    assert findings(a=inside(statement), b="from bench.c import x\n", c=f"import torch\n{inside('import json')}") == []


def test_one_whose_slow_package_is_loaded_anyway_is(findings):
    lines = findings(
        a="from bench.c import x\n" + inside("import bench.b"), b="import torch\n", c="import torch.nn\nx = 1\n"
    )
    assert len(lines) == 1 and "bench/a.py:3" in lines[0]


def test_what_a_module_loads_inside_its_functions_is_not_its_start(findings):
    assert len(findings(a=inside("import bench.b"), b=inside("import torch"))) == 1


@pytest.mark.parametrize("guard", ["from bench.a import f", "if TYPE_CHECKING:\n    from bench.a import f"])
def test_modules_that_import_each_other(findings, guard):
    source = f"from typing import TYPE_CHECKING\nimport torch\n{guard}\n"
    assert findings(a=inside("import bench.b"), b=source) == ["bench.a and bench.b import each other"]


def test_imports_for_types_alone_may_stay(findings):
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import bench.b\n"
    assert findings(a=source, b="") == []
