"""scripts/prose.py finds sentences that a reader has to decode."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROSE = runpy.run_path(str(ROOT / "scripts/prose.py"))
PYTHON, FIGURES = PROSE["python"], PROSE["figures"]


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


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("CAST is ahead by about\none percent.", [(2, "figure: one percent")]),
        ("It lost 4.2% of it.", [(1, "figure: 4.2%")]),
        ("It is three\ntimes as fast.", [(1, "figure: three\ntimes")]),
        ("The row has ×1.25, and perplexity 31.02.", [(1, "figure: ×1"),
                                                    (1, "figure: perplexity 31")]),
        ("It takes half as much, or a file of 97 MB.", [(1, "figure: half as"),
                                                        (1, "figure: 97 MB")]),
        ("<!-- ratio: a b -->\nIt lost 4.2%.\n<!-- /ratio -->", []),
        ("<!-- way -->\nIt lost 4.2%.\n<!-- /way -->", [(2, "figure: 4.2%")]),
        ("A margin of 0.5% of\nperplexity, a pattern of 50%, a 95% interval.", []),
        ("Calibration has 32 × 512 tokens, `4.2%`, and the others are older ones.", []),
    ],
)  # fmt: skip
def test_figures_of_results_are_not_typed(page, found):
    assert list(FIGURES(page)) == found
