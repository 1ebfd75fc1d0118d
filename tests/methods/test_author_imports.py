"""`from methods import ...` is all that an author needs, and costs nothing until it is used."""

import ast
from pathlib import Path

import pytest

import methods


@pytest.mark.parametrize("name", methods.__all__)
def test_every_name_can_be_imported(name):
    assert getattr(methods, name).__name__ == name
    assert name in dir(methods) and not hasattr(methods, "Wlak")


def test_type_checkers_and_python_see_the_same_names():
    tree = ast.parse(Path(methods.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {(alias.name, node.module) for node in block.body for alias in node.names}
    assert typed == {(name, f"methods.{module}") for name, module in methods._MODULE_OF.items()}
    assert sorted(name for name, _ in typed) == methods.__all__
