"""scripts/prose.py finds sentences that a reader has to decode."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = runpy.run_path(str(ROOT / "scripts/prose.py"))["python"]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (
            'x = 1\n"""Of a memory, that one artifact may take."""\n',
            ["attribute: Of a memory, that one artifact may take."],
        ),
        ('class A:\n    x: int = 1\n    """That share it."""\n', ["attribute: That share it."]),
        ('def f():\n    """The log."""\n', ["docstring of f: The log."]),
        ('class A:\n    """Whatever is left."""\n', ["docstring of A: Whatever is left."]),
        ('"""What a class declares."""\n', []),
        ('x = 1\n"""Where records are written."""\n', []),
        ('def f():\n    """Whether it runs."""\n', ["docstring of f: Whether it runs."]),
        ("x = 1  # the file is written anew\n", ["idiom: …# the file is written anew…"]),
        ('x = "nobody reads it"\n', ["idiom: …nobody reads it…"]),
        ('x = 1\n"""Number of processes that share the calibration."""\n', []),
        ('def f():\n    """Return the log."""\n', []),
        (
            'class A:\n    """A log."""\n\n    @property\n    def f(self):\n        """The '
            'log."""\n',
            [],
        ),
    ],
)
def test_what_is_found(source, found):
    assert [what for _, what in PYTHON(source)] == found
