"""Text of a card in Markdown. Names come from records and folders of others, and are escaped."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from bench.comparing.render import format_number
from bench.parts.card.contents import Contents
from bench.parts.card.row import Number, Row
from bench.parts.fidelity.tally import Interval
from bench.results import reproduce
from bench.system.text import escape_comment as escape
from bench.system.text import printable

MARK = "<!-- written by bench card -->"
"""Line of a card that may be written again."""


def text(
    name: str,
    base: str,
    base_hub: str,
    licence: str,
    row: Row | None,
    contents: Contents,
    *,
    export: Sequence[str] = (),
    steps: Sequence[str] = (),
) -> str:
    """Return the card without its front matter.

    base: name of the model that it was made from, "" if it is not known. base_hub: its id on the
    hub, "" if it has none. export: flags of the export that wrote the files, if they are known.
    steps: sentences about what was done to a folder without a row.
    """
    parts = [MARK, f"# {escape(name)}", _first_sentence(base, base_hub, contents)]
    if row:
        parts += ["## What was done", _table(["step", "choice"], list(_steps(row, contents)))]
    elif steps:
        parts += ["## What was done", "\n".join(f"- {escape(step)}" for step in steps)]
    if contents.kept:
        parts.append("## Embeddings, head and cache")
        parts.append("\n".join(f"- {line}" for line in contents.kept))
    if row:
        parts += list(_commands(row, export))
        parts += list(_numbers(row))
    if contents.picture:
        picture = f"![Distance from the original, token by token]({contents.picture})"
        # A phone shows it small. The link opens the file.
        parts.append(f"[{picture}]({contents.picture})")
    if row and row.numbers:
        parts += ["## Records", _records(row)]
    parts += ["## Licence", _licence(base, licence)]
    return "\n\n".join(parts) + "\n"


def _first_sentence(base: str, base_hub: str, contents: Contents) -> str:
    form = f", stored as {escape(contents.form)}" if contents.form else ""
    if base_hub:
        original = f"[{escape(base_hub)}](https://huggingface.co/{quote(base_hub)})"
    else:
        original = escape(base) or "a model that this card does not know"
    return f"A compressed form of {original}, made with cast-bench{form}."


def _steps(row: Row, contents: Contents) -> Iterator[list[str]]:
    """Yield what was done to the model, by name."""
    labels, identity = row.identity.labels(), row.identity
    steps = {
        "method": labels["method"],
        "pattern": labels["pattern"],
        "quantizer": labels["quantizer"],
        "linears": labels["targets"],
        "calibration": labels["calibration"],
        "training": labels["training"],
        "seed": identity.seed,
        "numbers computed in": identity.computed_in,
        "format of the files": contents.form,
    }
    for step, value in steps.items():
        if value not in (None, "", "none", "*"):
            yield [step, escape(str(value))]


def _commands(row: Row, export: Sequence[str]) -> Iterator[str]:
    """Yield the commands that make the model and measure it. Records of files of their users name
    none."""
    make, usual = reproduce.prune_and_export(row.model.records[0])
    if not make:
        return
    if len(export) > 1:
        folder = shlex.split(make)[-1]
        usual = shlex.join(["bench", "export", folder, *export, "--out", f"{folder}-{export[1]}"])
    yield "## Make it again"
    lines = (make, usual, *_measuring(row))
    yield _fenced("\n".join(printable(line) for line in lines if line))


def _measuring(row: Row) -> Iterator[str]:
    """Yield the commands that measure a row: one for all measures with the same settings."""
    measures: dict[tuple[str, str], list[str]] = {}
    for record in row.model.records:
        measure = record.identity.measure
        before, flag, after = reproduce.command([record]).partition(f" --measures {measure} ")
        names = measures.setdefault((before, after), [])
        if flag and measure not in names:
            names.append(measure)
    for (before, after), names in measures.items():
        yield f"{before} --measures {','.join(sorted(names))} {after}" if names else before


def _fenced(lines: str) -> str:
    """Return a code block. Its fence is longer than all runs of backticks in it."""
    longest = max(map(len, re.findall("`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}bash\n{lines}\n{fence}"


def _numbers(row: Row) -> Iterator[str]:
    """Yield the table of numbers and the protocol."""
    if not row.numbers:
        return
    lines = [_line(number) for number in row.numbers]
    headers = ["number", "measured on", "original", "this model", "95% interval", "items"]
    yield "## Numbers"
    yield _table(headers, lines, right=(2, 3, 5))
    yield (
        "An interval of a number that both models have is that of the change, over the same "
        "windows or questions. Other intervals are those of the number. Sizes are those of the "
        "row: a format of files may add scales and zero points."
    )
    first = row.numbers[0].record
    about = [f"Measured with cast-bench {row.model.version}"]
    about += [f"{lib} {first.versions[lib]}" for lib in ("torch", "transformers", "lm_eval")
              if first.versions.get(lib)]  # fmt: skip
    yield escape(", ".join(about) + f", on {first.processor or 'an unknown machine'}.")


def _records(row: Row) -> str:
    """Return the table of the records' digests."""
    records = {number.record.key: number.record.digest for number in row.numbers}
    lines = [[f"`{key[:32]}`", f"`{digest}`"] for key, digest in sorted(records.items())]
    return _table(["record", "sha256 of its text"], lines)


def _line(number: Number) -> list[str]:
    reading, protocol = number.reading, number.record.identity.protocol
    unit = reading.unit if reading.unit not in ("", "1", "B") else ""
    original = "" if number.original is None else format_number(number.original, reading.unit)
    return [
        escape(" ".join(filter(None, (reading.metric.replace("_", " "), unit and f"({unit})")))),
        escape(protocol.label),
        original,
        format_number(number.found.value, reading.unit),
        _describe(number),
        f"{reading.n:,}" if reading.n else "",
    ]


def _describe(number: Number) -> str:
    """Return the interval of the change if the number has one, else of the number."""
    if number.change is None:
        return "" if number.found.low is None else _ends(number.found)
    if number.is_ratio:
        return f"×{number.change.value:.4g} ({_ends(number.change)})"
    return f"{number.change.value:+.3g} ({_ends(number.change)})"


def _ends(found: Interval) -> str:
    if found.low == found.high:
        return "exact"
    return f"{found.low:.4g} to {found.high:.4g}"


def _table(
    headers: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> str:
    """Return a table in Markdown of cells that are escaped already. right: columns of numbers."""
    rule = ["---:" if i in right else "---" for i in range(len(headers))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (headers, rule, *lines))


def _licence(base: str, licence: str) -> str:
    if licence:
        return f"The original's: {escape(licence)}."
    whose = escape(base) or "the original"
    return f"The licence of {whose} is not known here. Name it before you publish this model."
