"""Stages of a method: the framework names no method."""

import ast
import re
from pathlib import Path

import bench
from bench.catalog.entries import CONTROL, METHODS

NAMES = set(METHODS) - {CONTROL}  # which is also the word for a pattern


def named_in(file):
    """The names of methods that texts of a module contain: as a whole, or as a command."""
    nodes = list(ast.walk(ast.parse(file.read_bytes())))
    docstrings = [node.value for node in nodes if isinstance(node, ast.Expr)]
    for node in nodes:
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and node not in docstrings:
            in_commands = re.findall(r"(?:from=|--methods |use )([a-z-]+)", node.value)
            yield from NAMES & {node.value, *in_commands}


def test_planning_and_execution_name_no_method():
    files = [
        file
        for part in ("planning", "execution")
        for file in (Path(bench.__file__).parent / part).rglob("*.py")
    ]
    found = {file.name: set(named_in(file)) for file in files}

    assert len(files) > 40
    assert {name: names for name, names in found.items() if names} == {}
