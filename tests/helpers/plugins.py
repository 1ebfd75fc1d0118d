"""Plug-ins whose methods prune by magnitude, and then do what a test is about."""

from textwrap import indent

from helpers import runs

MODULE = """
import multiprocessing, os, signal, subprocess, sys, threading, time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from methods import Needs, Outcome, Walk


class _Method:
    needs: ClassVar[Needs] = Needs.NOTHING

    def apply(self, model, job):
        walk = Walk(model, job)
        for visit in walk:
            visit.prune(job.pattern.keep(visit.weight.abs()))
        return self.end(model, job, walk) or walk.outcome()
"""
CLASS = """
@dataclass(frozen=True)
class {kind}(_Method):
    name: ClassVar[str] = {name!r}
{fields}
    def end(self, model, job, walk):
{body}
"""


def install(folder, module, ends, fields=None, preamble=""):
    """Install a module with a method for each name in `ends`: the statements that follow the pruning.

    They know self, model, job and walk, and what the preamble defines. They may return an outcome. fields: by method.
    """
    fields = fields or {}
    classes = [
        CLASS.format(kind=name.capitalize(), name=name, fields=indent(fields.get(name, ""), " " * 4), body=indent(end, " " * 8))
        for name, end in ends.items()
    ]  # fmt: skip
    names = {name: f"{module}:{name.capitalize()}" for name in ends}
    return runs.distribution(folder, module, MODULE + preamble + "".join(classes), methods=names)
