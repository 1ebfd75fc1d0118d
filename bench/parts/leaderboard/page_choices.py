"""What the page's sliders read: which rows `bench pick` would name at each of their stops."""

from __future__ import annotations

import re
import shlex
from itertools import chain
from typing import Any

from bench.reporting import pairwise
from bench.reporting.candidates import (
    check_limit,
    describe_facts,
    pick,
    quality_column,
    tied_rows,
)
from bench.reporting.facts import Facts
from bench.reporting.limits import LIMITS, Limits, parse_limit
from bench.reporting.view import Table, TableRow
from methods.contract.errors import UserError


def page_choices(table: Table) -> dict[str, Any] | None:
    """Return what the page's sliders read. Returns None if no row can be picked.

    Rows are in the order of their quality. `stops` has for each limit the first stop that the row
    meets, None if it was not measured. `unsure` has the stops that its interval contains. `tied`
    has the rows that come first if the row is the best, and `uncompared` the later ones that were
    not compared with it, or None if it was compared with none of many.
    """
    try:
        answer = pick(table, Limits())
        differ = pairwise.differ_from_best(table, quality_column(table))
    except UserError:
        return None
    rows = sorted(answer.meets, key=lambda c: (c.quality, c.index))
    if not rows:
        return None
    place = {c.index: at for at, c in enumerate(rows)}
    compared = set(chain.from_iterable(differ))
    patterns = {c.row.filters["pattern"] for c in rows}
    # A quantizer's name, and the part that names of several begin with: "int4" of "int4-gptq".
    quantizers = {c.row.filters["quantizer"] for c in rows}
    options = sorted(quantizers | {re.split("[-:]", name)[0] for name in quantizers})

    def labels(row: TableRow) -> dict[str, Any]:
        fitting = [name for name in options if row.filters["quantizer"].startswith(name)]
        return {"name": row.name, "pattern": row.filters["pattern"], "quantizers": fitting}

    limits = [(one, [float(parse_limit(one, stop)) for stop in one.stops]) for one in LIMITS]
    out = []
    for at, c in enumerate(rows):
        stops: list[int | None] = []
        unsure: list[list[int]] = []
        for limit, values in limits:
            if limit.bound(c.facts) is None:
                stops.append(None)
                unsure.append([])
                continue
            checks = [check_limit(limit, c.facts, value) for value in values]
            stops.append(sum(not one.met for one in checks))
            unsure.append([k for k, one in enumerate(checks) if one.unsure])
        tied, uncompared = [at], None
        if c.index in compared or len(rows) - at <= pairwise.MAX_PAIRED_ROWS:
            later = enumerate(rows[at + 1 :], at + 1)
            tied = [place[one.index] for one in tied_rows(rows[at:], differ)]
            uncompared = [
                k for k, one in later if pairwise.ordered(c.index, one.index) not in differ
            ]
        found = {
            "device": c.facts.device,
            "make": c.facts.make,
            "export": c.facts.export,
            "stops": stops,
            "unsure": unsure,
            "tied": tied,
            "uncompared": uncompared,
            "cells": list(describe_facts(c.facts).values()),
        }
        out.append(labels(c.row) | found)
    return {
        "rows": out,
        "headers": list(describe_facts(Facts(compressed=True))),
        "patterns": [[name, shlex.join(["--pattern", name])] for name in sorted(patterns)],
        "quantizers": [[name, shlex.join(["--quant", name])] for name in options],
        "broken": [labels(row) for row in answer.broken],
        "command": shlex.join(
            ["bench", "pick", "--model", table.title, "--protocol", table.protocol]
        ),
    }
