"""Digests of code ignore names of files, comments and docstrings."""

import ast
import re
import shutil
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from bench.catalog import registry
from bench.planning.model_inputs import LOADER
from bench.system import module_files, source_digest
from bench.system.interpreter import OWN_PACKAGES, ROOT
from bench.system.source_digest import digest_modules, digest_source
from methods.contract.errors import UserError

WINDOWS = "bench/inputs/windows.py"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Copy the sources of the packages. Digests are computed from the copy."""
    ignore = shutil.ignore_patterns("assets", "__pycache__")
    for package in OWN_PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    find = module_files.importlib.util.find_spec

    def find_in_copy(name):
        if name not in OWN_PACKAGES:
            return find(name)
        spec = ModuleSpec(name, None, origin=str(tmp_path / name / "__init__.py"), is_package=True)
        spec.submodule_search_locations = [str(tmp_path / name)]
        return spec

    monkeypatch.setattr(module_files.importlib.util, "find_spec", find_in_copy)
    forget_files()
    yield tmp_path
    forget_files()


def forget_files():
    """A source that was parsed before may stay parsed, as long as no file has moved."""
    digest_source.cache_clear()
    module_files.find_file.cache_clear()


def forget():
    source_digest._parse.cache_clear()
    forget_files()


def digest(*modules):
    digest_source.cache_clear()
    return digest_source(*modules)


def rewrite(file, old, new):
    text = file.read_text()
    assert old in text, old
    file.write_text(text.replace(old, new))


def move(tree, *paths):
    """Move modules and packages, each an (old, new) path, and change the imports of all files."""
    names = [
        [Path(path).with_suffix("").as_posix().replace("/", ".") for path in pair] for pair in paths
    ]
    for old, new in paths:
        (tree / new).parent.mkdir(parents=True, exist_ok=True)
        (tree / old).rename(tree / new)
    for file in tree.rglob("*.py"):
        text = file.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                statements = [" " * node.col_offset + s for s in moved_imports(node, names)]
                lines[node.lineno - 1] = "\n".join(statements)
                lines[node.lineno : node.end_lineno] = [""] * (node.end_lineno - node.lineno)
        text = "\n".join(lines) + "\n"
        for old, new in names:
            text = re.sub(rf'"{re.escape(old)}(?=[".])', f'"{new}', text)
        file.write_text(text)
    forget()


def moved_imports(node, names):
    """Yield the statements that import the same from the new places. A name in the code stays."""
    for alias in node.names:
        imported = f"{node.module}.{alias.name}"
        for old, new in names:
            if imported == old or imported.startswith(f"{old}."):
                imported = new + imported.removeprefix(old)
        module, _, name = imported.rpartition(".")
        yield f"from {module} import {name}" + (
            f" as {alias.asname or alias.name}" if alias.name != name or alias.asname else ""
        )


MEASURE, QUANTIZER, METHOD, CROPS = (
    "bench.measures.perplexity", "bench.quantizers.gptq", "baselines.wanda", "bench.inputs.windows",
)  # fmt: skip


def test_a_moved_file_or_package_changes_nothing(tree):
    roots = [CROPS, LOADER, "bench.inputs.training_text"]
    for kind in ("methods", "quantizers", "measures"):
        roots += [entry.module for entry in registry.SECTIONS[kind].values() if entry.module]
    before = [digest(root) for root in roots]
    places = [
        (WINDOWS, "bench/inputs/crops.py"),
        ("methods/workshop/pruning/walk.py", "methods/blockwise.py"),
        ("methods/workshop/quantizing/grids.py", "methods/workshop/rounding/grids.py"),
        # A measure reads its functions as corpora.NAME.
        (
            "bench/inputs/corpora.py",
            "bench/texts.py",
        ),
        ("bench/quantizers", "bench/core/rounding"),
        ("bench/results", "bench/core/results"),
    ]

    move(tree, *places)

    def new_name(module):
        for old, new in places:
            old, new = (path.removesuffix(".py").replace("/", ".") for path in (old, new))
            if module == old or module.startswith(f"{old}."):
                return new + module.removeprefix(old)
        return module

    after = [digest(new_name(root)) for root in roots]
    forget()
    assert [root for root, a, b in zip(roots, before, after, strict=True) if a != b] == []


def test_a_module_counts_unless_it_says_that_it_decides_no_number(tree):
    before = digest(MEASURE), digest("bench.measures.size")
    rewrite(tree / "bench/results/record.py", "SCHEMA = 4", "SCHEMA = 5")
    assert (digest(MEASURE), digest("bench.measures.size")) == before
    rewrite(tree / "bench/results/recount.py", "sparsity) + 1", "sparsity) + 2")  # says nothing
    assert digest(MEASURE) == before[0] and digest("bench.measures.size") != before[1]
    rewrite(tree / "bench/results/record.py", "DECIDES_NO_NUMBER = True\n", "")
    assert digest(MEASURE) != before[0]


def test_the_sentence_of_an_error_changes_nothing_and_its_class_does(tree):
    before = digest("bench.verify")
    rewrite(tree / "bench/verify.py", 'raise CheckFailed(f"', 'raise CheckFailed(f"Sorry: ')
    assert digest("bench.verify") == before
    rewrite(tree / "bench/verify.py", "raise CheckFailed(", "raise UserError(")
    assert digest("bench.verify") != before


def test_a_comment_or_docstring_changes_nothing(tree):
    before = digest(MEASURE), digest(CROPS)
    file = tree / WINDOWS
    code = file.read_text().split('"""', 2)[2]
    file.write_text(f'"""Another first line."""\n# and a comment\n{code}')
    assert (digest(MEASURE), digest(CROPS)) == before


def test_what_methods_share_counts_for_methods_and_quantizers_that_use_it(tree):
    before = {m: digest(m) for m in (METHOD, QUANTIZER, "cast.cast", CROPS)}
    rewrite(tree / "methods/workshop/pruning/walk.py", "self", "itself")
    assert {m for m in before if digest(m) != before[m]} == {METHOD, QUANTIZER}


def test_the_loss_of_a_training_counts_only_for_methods_that_use_it(tree, monkeypatch):
    (tree / "outer.py").write_text("from methods import Loss, Trainer, TrainingSettings\n")
    monkeypatch.syspath_prepend(tree)
    before = {m: digest(m) for m in ("baselines.retrain", "cast.cast", "outer")}
    rewrite(tree / "methods/workshop/training/distill.py", "temperature**2", "temperature**3")
    assert {m for m in before if digest(m) != before[m]} == {"baselines.retrain", "cast.cast"}


def test_modules_alone_have_a_digest_that_their_imports_do_not_change(tree):
    size = "bench.measures.size"
    before = [digest_modules(size), digest(size)]
    rewrite(tree / "bench/results/recount.py", "sparsity) + 1", "sparsity) + 2")
    after = [digest_modules(size), digest(size)]
    assert before[0] == after[0] and before[1] != after[1]
    rewrite(tree / "bench/measures/size.py", '"folder"', '"other"')
    assert digest_modules(size) != before[0]


def test_an_unknown_module_is_an_error():
    with pytest.raises(UserError, match=r"baselines\.nobody has no Python source"):
        digest("baselines.nobody")


def test_what_a_plug_in_imports_of_this_distribution_counts(tree, monkeypatch):
    imports = "from baselines.wanda import Wanda\nfrom bench.measures.windowed import Windowed\n"
    (tree / "outer.py").write_text(imports)
    monkeypatch.syspath_prepend(tree)
    digests = {digest("outer")}
    for file in ("bench/measures/windowed.py", "bench/inputs/windows.py", "baselines/wanda.py"):
        rewrite(tree / file, "self" if "inputs" not in file else "width", "other")
        digests.add(digest("outer"))
    forget()
    assert len(digests) == 4


@pytest.mark.parametrize(
    "line", ["from .helper import f", "from . import helper", "from outer.helper import f"]
)
def test_what_a_plug_in_imports_counts(tmp_path, monkeypatch, line):
    package = tmp_path / "outer"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "core.py").write_text(line + "\n")
    (package / "helper.py").write_text("def f():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = digest("outer.core")
    rewrite(package / "helper.py", "return 1", "return 2")

    assert digest("outer.core") != before
    forget()


def test_what_a_class_states_about_itself_is_no_part_of_its_code(tree):
    before = digest(METHOD), digest(MEASURE)
    rewrite(tree / "baselines/wanda.py", "Cost(passes=2)", "Cost(passes=3, also='more')")
    rewrite(tree / "bench/measures/perplexity.py", "margin=0.005", "margin=0.006")
    rewrite(tree / "methods/contract/info.py", "PER_LINEAR = 1.3", "PER_LINEAR = 2.0")
    assert (digest(METHOD), digest(MEASURE)) == before
    rewrite(tree / "baselines/wanda.py", "Needs.CALIBRATION", "Needs.CALIBRATION | Needs.TEACHER")
    assert digest(METHOD) != before[0]


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize(
    "line", ["from mine.kernels.solve import RULE", "from .kernels import solve"]
)
def test_a_folder_needs_no_init_to_be_a_package(init, line, tmp_path, monkeypatch):
    (tmp_path / "mine" / "kernels").mkdir(parents=True)
    (tmp_path / "mine" / "method.py").write_text(line)
    if init:
        (tmp_path / "mine" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    digests = set()
    for rule in (1, 2):
        (tmp_path / "mine" / "kernels" / "solve.py").write_text(f"RULE = {rule}")
        digests.add(digest("mine.method"))

    forget()
    assert len(digests) == 2
