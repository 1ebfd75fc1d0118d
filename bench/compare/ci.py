"""A judgement for the machines that build: JUnit XML, and GitHub's annotations."""

from __future__ import annotations

from xml.etree import ElementTree

from bench.compare.escape import annotation, printable
from bench.compare.render import cells, describe_outcome
from bench.compare.verdict import Comparison, Row


def to_junit(judged: Comparison) -> str:
    """A test case a row: what fails the gate is a failure, what could not be decided or compared is skipped."""
    failed = set(map(id, judged.failed))
    skipped = [r for r in judged.rows if id(r) not in failed and r.verdict in ("INCONCLUSIVE", "NOT_COMPARABLE")]
    counts = {"tests": len(judged.rows), "failures": len(failed), "errors": 0, "skipped": len(skipped)}
    told = {k: str(v) for k, v in counts.items()}
    root = ElementTree.Element("testsuites", {"name": "bench gate", **told})
    suite = ElementTree.SubElement(root, "testsuite", {"name": "bench gate", **told})
    for row in judged.rows:
        named = {"classname": printable(row.name), "name": printable(row.metric), "time": "0"}
        case = ElementTree.SubElement(suite, "testcase", named)
        if id(row) in failed:
            ElementTree.SubElement(case, "failure", {"type": row.verdict, "message": describe(row)})
        elif row.verdict in ("INCONCLUSIVE", "NOT_COMPARABLE"):
            ElementTree.SubElement(case, "skipped", {"message": describe(row)})
        elif row.estimate is not None:
            ElementTree.SubElement(case, "system-out").text = describe(row)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def to_github(judged: Comparison) -> str:
    """Workflow commands, a line each: errors for what fails, a warning for what could not be decided, one notice."""
    lines = []
    for row in judged.rows:
        if row in judged.failed or row.verdict == "INCONCLUSIVE":
            level = "error" if row in judged.failed else "warning"
            title = annotation(printable(f"{row.verdict} {row.metric}"), field=True)
            lines.append(f"::{level} title={title}::{annotation(describe(row))}")
    lines.append(f"::notice title=bench gate::{annotation(describe_outcome(judged))}")
    return "\n".join(lines) + "\n"


def describe(row: Row) -> str:
    """A row in words."""
    told = cells(row)
    moved = f"{told['before']} to {told['after']}, {told['change']}" if row.estimate else ""
    if not row.estimate and row.before is not None:
        moved = f"{told['before']} to {told['after']}"
    p = f"p {told['p']}" if told["p"] else ""
    return f"{told['row']}, {told['metric']}: " + "; ".join(filter(None, (row.verdict, moved, p, told["about"])))
