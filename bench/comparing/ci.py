"""Comparisons for CI systems: JUnit XML, and annotations for GitHub."""

from __future__ import annotations

from xml.etree import ElementTree

from bench.comparing.render import cells, describe_outcome
from bench.comparing.verdict import Comparison, Row
from bench.system.text import annotation, printable


def to_junit(comparison: Comparison) -> str:
    """Return a test case for each row: failed if the row fails the gate, skipped if inconclusive or
    not comparable."""
    failed = set(map(id, comparison.failed))
    skipped = [
        r
        for r in comparison.rows
        if id(r) not in failed and r.verdict in ("INCONCLUSIVE", "NOT_COMPARABLE")
    ]
    counts = {
        "tests": len(comparison.rows),
        "failures": len(failed),
        "errors": 0,
        "skipped": len(skipped),
    }
    attributes = {k: str(v) for k, v in counts.items()}
    root = ElementTree.Element("testsuites", {"name": "bench gate", **attributes})
    suite = ElementTree.SubElement(root, "testsuite", {"name": "bench gate", **attributes})
    for row in comparison.rows:
        names = {"classname": printable(row.name), "name": printable(row.metric), "time": "0"}
        case = ElementTree.SubElement(suite, "testcase", names)
        if id(row) in failed:
            ElementTree.SubElement(
                case, "failure", {"type": row.verdict, "message": printable(describe(row))}
            )
        elif row.verdict in ("INCONCLUSIVE", "NOT_COMPARABLE"):
            ElementTree.SubElement(case, "skipped", {"message": printable(describe(row))})
        elif row.estimate is not None:
            ElementTree.SubElement(case, "system-out").text = printable(describe(row))
    ElementTree.indent(root)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        + ElementTree.tostring(root, encoding="unicode")
        + "\n"
    )


def to_github(comparison: Comparison) -> str:
    """Return workflow commands, one a line: errors for failures, warnings for inconclusive rows,
    and one notice."""
    lines, failed = [], set(map(id, comparison.failed))
    for row in comparison.rows:
        if id(row) in failed or row.verdict == "INCONCLUSIVE":
            level = "error" if id(row) in failed else "warning"
            title = annotation(f"{row.verdict} {row.metric}", field=True)
            lines.append(f"::{level} title={title}::{annotation(describe(row))}")
    lines.append(f"::notice title=bench gate::{annotation(describe_outcome(comparison))}")
    return "\n".join(lines) + "\n"


def describe(row: Row) -> str:
    """Return a row as a sentence."""
    columns = cells(row)
    moved = ""
    if row.estimate:
        moved = f"{columns['before']} to {columns['after']}, {columns['change']}"
    if not row.estimate and row.before is not None:
        moved = f"{columns['before']} to {columns['after']}"
    p = columns["p"] and f"p {columns['p']}"
    return f"{columns['row']}, {columns['metric']}: " + "; ".join(
        filter(None, (row.verdict, moved, p, columns["about"]))
    )
