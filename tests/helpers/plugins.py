"""Plug-ins made from statements: methods and quantizers that prune first, and measures."""

import shutil
import tomllib
from pathlib import Path
from textwrap import indent

from helpers import runs

EXAMPLES = Path(__file__).parents[2] / "docs/examples"

METHODS = """
import multiprocessing, os, signal, subprocess, sys, threading, time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from methods import Does, FloatCodec, MethodInfo, Needs, Outcome, StoredWeight, Walk


class _Method:
    needs: ClassVar[Needs] = Needs.NOTHING

    def apply(self, model, job):
        walk = Walk(model, job)
        for visit in walk:
            visit.prune(job.pattern.keep(visit.weight.abs()))
        return self.end(model, job, walk) or walk.outcome()
"""
METHOD = '''
@dataclass(frozen=True)
class {kind}(_Method):
    """Prune by magnitude, and then do what a test is about."""
    name: ClassVar[str] = {name!r}
{fields}
    def end(self, model, job, walk):
{body}
'''
MEASURES = """
import random
from dataclasses import dataclass
from typing import ClassVar

import numpy
import torch

from bench.measures.contract import Readings
from bench.results.record import Reading
from methods import Needs
from methods.contract.measure_info import MeasureInfo, Metric


class _Measure:
    needs: ClassVar[Needs] = Needs.NOTHING
    protocol: ClassVar[str] = "test"
"""
MEASURE = """
@dataclass(frozen=True)
class {kind}(_Measure):
    name: ClassVar[str] = {name!r}
{fields}
    def read(self, model, context):
{body}
"""


def install(folder, module, ends, fields=None, preamble="", kind="methods"):
    """Install a module with a plug-in for each name in `ends`: the statements that follow the
    pruning, or that read a measure.

    All statements can use self, model and what the preamble defines. Those of a method or quantizer
    can also use job and walk, and may return an outcome. Those of a measure can also use context,
    and return readings.
    fields: further lines of the class, by name. kind: "methods", "quantizers" or "measures".
    """
    fields = fields or {}
    head, form = (MEASURES, MEASURE) if kind == "measures" else (METHODS, METHOD)
    classes = []
    for name, end in ends.items():
        parts = {"fields": indent(fields.get(name, ""), " " * 4), "body": indent(end, " " * 8)}
        classes.append(form.format(kind=name.capitalize(), name=name, **parts))
    names = {name: f"{module}:{name.capitalize()}" for name in ends}
    return runs.distribution(folder, module, head + preamble + "".join(classes), **{kind: names})


def groups_of_examples():
    """Entry points of the package in docs/examples: names by section."""
    about = tomllib.loads((EXAMPLES / "pyproject.toml").read_text())
    points = about["project"]["entry-points"]
    return {group.removeprefix("cast_bench."): names for group, names in points.items()}


def install_examples(folder):
    """Install the package in docs/examples."""
    runs.distribution(folder, "examples", "", **groups_of_examples())
    for file in EXAMPLES.glob("*.py"):
        shutil.copy(file, folder)
