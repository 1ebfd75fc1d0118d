"""Each part can be deleted with its tests, and what every run needs stays small."""

import ast
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = sorted(file.parent.name for file in (ROOT / "bench/parts").glob("*/__init__.py"))
PACKAGES = ("bench", "methods", "cast", "baselines")
DOORS = ("bench.cli.run", "bench.cli.compare", "bench.cli.report")
"""Modules of run, compare and report."""
MOST_LINES = 28_850
"""Largest number of lines of bench that they may reach."""


def file_of(module):
    path = ROOT / module.replace(".", "/")
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if file.is_file():
            return file
    return None


def imported_by(file):
    """Names of all modules that a file may import, those in functions too."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def closure(doors):
    """Files of the modules that the doors reach by imports, without parts and methods' classes."""
    found, waiting = {}, [*doors]
    while waiting:
        module = waiting.pop()
        file = file_of(module) if module.split(".")[0] in PACKAGES else None
        if file is None or module in found or module.startswith("bench.parts."):
            continue
        found[module] = file
        if module != "bench":  # it imports a public name when that is used
            waiting += imported_by(file)
    return found


def lines_of(files):
    return sum(len(file.read_text().splitlines()) for file in files)


def test_what_run_compare_and_report_reach():
    files = closure(DOORS)
    assert not any(module.startswith("bench.parts.") for module in files)
    lines = lines_of(file for module, file in files.items() if module.startswith("bench"))
    assert lines <= MOST_LINES, f"{lines:,} lines in {len(files)} modules"


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_deleted_with_its_tests(part, tmp_path):
    """Help, the imports of all other tests, and the tests that could notice. A part that needs it
    is left out, too."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for path in ROOT.iterdir():
        if path.name in ("bench", "tests"):
            shutil.copytree(path, tree / path.name)
        elif path.name != ".git":
            (tree / path.name).symlink_to(path)
    gone = {part, *needing(part)}
    for name in gone:
        shutil.rmtree(tree / "bench/parts" / name)
        shutil.rmtree(tree / "tests/parts" / name, ignore_errors=True)
    (tree / "only.py").write_text(ONLY)
    run_in(tree, "bench", "--help")
    only = " ".join(noticing(gone, tree))
    run_in(
        tree,
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "only",
        "-m",
        "not slow and not full",
        "tests",
        ONLY=only,
    )


ONLY = """
import os


def pytest_collection_modifyitems(items):
    wanted = os.environ["ONLY"].split()
    items[:] = [item for item in items if item.nodeid.partition("::")[0] in wanted]
"""
"""Plugin of pytest: collect all tests, and run those of a few files."""


def run_in(tree, *command, **variables):
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"} | variables
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tree, env=environment, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


SECTIONS_OF_WORDS = (
    "commands", "services", "exports", "readers", "measures", "methods", "quantizers"
)  # fmt: skip
"""Sections whose names stand in tests as quoted words, or before a field."""


def noticing(gone, tree):
    """Tests of the core that read the catalog or a help, or whose text has a part's module, or a
    name that it adds."""
    names = set()
    for part in gone:
        names.add(f"bench.parts.{part}")
        entries = import_module(f"bench.parts.{part}").ENTRIES
        for section in SECTIONS_OF_WORDS:
            for name in entries.get(section, ()):
                names |= {f'"{name}"', f'"{name}:'}
    found = {"tests/bench/cli/test_main.py"}
    found |= {str(file.relative_to(tree)) for file in tree.glob("tests/bench/catalog/test_*.py")}
    for folder in ("bench", "methods", "integration"):
        for file in (tree / "tests" / folder).rglob("test_*.py"):
            text = file.read_text()
            if file.name != "test_parts.py" and any(name in text for name in names):
                found.add(str(file.relative_to(tree)))
    return sorted(found)


def needing(part):
    """Parts that use a part, and those that use these."""
    from bench.catalog import parts

    direct = [name for name, other in parts.found_parts().items() if part in parts.needs(other)]
    return [*direct, *(name for one in direct for name in needing(one))]


if __name__ == "__main__":
    reached = closure(DOORS)
    for top in sorted({tuple(module.split(".")[:2]) for module in reached}):
        files = [file for module, file in reached.items() if tuple(module.split(".")[:2]) == top]
        print(f"{lines_of(files):7,} {'.'.join(top)}")
    print(f"{lines_of(reached.values()):7,} in {len(reached)} modules")
