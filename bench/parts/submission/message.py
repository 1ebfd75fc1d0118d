"""Text of a submission for its pull request: rows, changes of the leaderboard, licences, and the
commands that reproduce the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.parts.submission.review import Effect, Review
from bench.reporting.table import to_markdown
from bench.reporting.view import Table, TableRow
from bench.results import reproduce
from bench.results.record import Record
from bench.system.grouping import group_by
from bench.system.text import amount
from bench.system.text import escape_comment as escape

MAX_COMMANDS, MAX_MOVED, MAX_REFUSALS = 20, 10, 50
"""Largest numbers of commands, of moved rows, and of refusals that the text lists."""
MAX_REFUSAL = 500
"""Largest number of characters of a refusal. GitHub takes comments of 65,536 characters."""


def text(review: Review, name: str) -> str:
    """Return the text in Markdown."""
    about, records = review.about, review.records
    machines = sorted({record.processor for record in records})
    versions = sorted(
        {
            f"cast-bench {r.versions.get('cast-bench')}, torch {r.versions.get('torch')}"
            for r in records
        }
    )
    parts = [
        f"## Results: {escape(name)}",
        escape(about.about),
        f"Contributed by {escape(about.credit)} on {about.submitted}. Measured on "
        f"{escape(' and '.join(machines))} with {escape('; '.join(versions))}.",
        f"{amount(len(records), 'record')}. {amount(review.checked.recomputed, 'number')} "
        f"computed again from their items, and {sum(review.checked.not_derived.values()):,} that "
        "no items give.",
        *map(escape, review.remarks),
        *(part for effect in review.effects for part in _of_effect(effect)),
        "### Licences",
        "\n".join(f"- {escape(one)}: {escape(licence)}" for one, licence in about.licences.items()),
        "### Make it again",
        _commands(records),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def refusal(review: Review, name: str) -> str:
    """Return the text for a refused submission in Markdown."""
    more = len(review.refusals) - MAX_REFUSALS
    lines = [escape(one[:MAX_REFUSAL]) for one in review.refusals[:MAX_REFUSALS]]
    if more > 0:
        lines.append(f"and {more:,} more")
    return f"## Refused: {escape(name)}\n\n" + "\n".join(f"- {line}" for line in lines) + "\n"


def _of_effect(effect: Effect) -> Iterator[str]:
    table = effect.table
    dense = [
        k
        for k in table.whole_rows
        if table.rows[k].filters["method"] == "dense" and not table.rows[k].is_quantized
    ]
    yield f"### {escape(effect.section)}: {escape(table.protocol)}"
    yield to_markdown(
        table.to_text_table(list(dict.fromkeys([*dense, *effect.rows]))), escape
    ).rstrip()
    yield "What it changes:\n\n" + "\n".join(f"- {escape(line)}" for line in changes(effect))


def changes(effect: Effect) -> list[str]:
    """Return a line for each new row with its rank, for each other row whose rank changes, and for
    each row that is gone."""
    table, before = effect.table, effect.before
    lines = [
        f"new: {_name(table.rows[k])}: {_rank(table, k)}, in {len(table.whole_rows)} rows"
        for k in effect.rows
    ]
    if before is None:
        return [*lines, "The leaderboard had no such table."]
    was = {_name(before.rows[k]): k for k in before.whole_rows}
    moved = []
    for k in table.whole_rows:
        name = _name(table.rows[k])
        if k not in effect.rows and name in was and _rank(before, was[name]) != _rank(table, k):
            moved.append(f"{name}: {_rank(before, was[name])} before, now {_rank(table, k)}")
    moved = moved or ["No other row moves."]
    rest = [f"and {len(moved) - MAX_MOVED:,} other rows"] if len(moved) > MAX_MOVED else []
    gone = sorted(was.keys() - {_name(table.rows[k]) for k in table.whole_rows})
    return [
        *lines,
        *moved[:MAX_MOVED],
        *rest,
        *(f"no longer there by this name: {name}" for name in gone),
    ]


def _name(row: TableRow) -> str:
    return ", ".join(dict.fromkeys(label for label in row.labels if label != "none"))


def _rank(table: Table, row: int) -> str:
    rank = table.ranks[table.ranked_by][row] if table.ranked_by is not None else ""
    return f"rank {rank}" if rank else "no rank"


def _commands(records: Sequence[Record]) -> str:
    """Return the commands that reproduce the rows, as a code block.

    Every command also measures size and pattern, so only a row without other records needs one for
    these.
    """
    rows = group_by(records, lambda r: r.identity.key("seed", "measure", "protocol"))
    commands: dict[str, None] = {}
    for row in rows.values():
        measured = [r for r in row if r.identity.subject != "weights"] or row[:1]
        for some in group_by(measured, lambda r: r.identity.key("seed")).values():
            commands[reproduce.command(some)] = None
    lines = list(commands)
    if len(lines) > MAX_COMMANDS:
        lines[MAX_COMMANDS:] = [f"# and {len(lines) - MAX_COMMANDS:,} more"]
    return "```bash\n" + "\n".join(lines).replace("```", "'''") + "\n```"
