"""The rules of a submission. Each yields a sentence for what it refuses."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from bench.catalog import choice, registry
from bench.inputs import corpora
from bench.inputs.mixtures import shares_of
from bench.inputs.models import HUB_ID, find_alias
from bench.parts.submission import licences
from bench.reporting.protocol import VALIDATION
from bench.reporting.searches import FILE as ABOUT_FILE
from bench.reporting.searches import About
from bench.results import metrics, reproduce
from bench.results.alike import is_plain
from bench.results.derive import Items
from bench.results.identity import Identity, IdentityKey
from bench.results.record import DONE, Record
from bench.results.storage_notes import NotedBits, noted_bits
from bench.results.store import FOLDERS
from methods.contract.codec import STORED_KEY
from methods.contract.errors import UserError
from methods.contract.info import Does
from methods.contract.pattern import Pattern

NAME = re.compile("(?=.{6,64}$)[a-z0-9]+(?:[.-][a-z0-9]+)*")
FILE = re.compile(
    r"about\.toml|records/[0-9a-f]{32}\.json|items/[0-9a-f]{32}\.parquet|signatures/[0-9a-f]{32}\.txt(\.sig)?"
)
"""Files of a submission."""
MACHINE_PATH = re.compile(
    r"""(?:^|[\s"'=(,:;<\[])(/(?:[\w.@+-]+/)+[\w.@+-]*|/(?:home|root|tmp|mnt|data|work|Users)\b|~/[\w.]\S*"""
    r"""|[A-Za-z]:[\\/](?!/)\S*|\\\\\w+\\\S*|file://\S*)"""
)
MAX_CREDIT = 100
COPY_TOLERANCE = 1e-6
"""Relative difference between two perplexities of which one is a copy."""
Published = Mapping[IdentityKey, tuple[str, Record]]
"""Folder and record of each published measurement."""


def of_files(folder: Path) -> Iterator[str]:
    """Refuse files that belong to no submission, and links."""
    if not (folder / ABOUT_FILE).exists():
        yield f"{folder} has no {ABOUT_FILE}: make the submission with bench submit"
        return
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_part = name in FOLDERS if path.is_dir() else path.is_file() and FILE.fullmatch(name)
        if path.is_symlink():
            yield f"{name} is a link: a submission has regular files only"
        elif not is_part:
            yield f"{name} is not part of a submission: leave it out"


def of_name(name: str, models: Iterable[str], taken: Iterable[str]) -> Iterator[str]:
    """Refuse a folder name that breaks the rule: MODEL-MACHINE-WHO in lower case."""
    begins, wrong = sorted({slug(model) for model in models}), ""
    if not NAME.fullmatch(name):
        wrong = "is not MODEL-MACHINE-WHO in 6 to 64 lower-case letters, digits, dots and dashes"
    elif begins and not any(name.startswith(f"{model}-") for model in begins):
        wrong = f"does not begin with a model of the records ({', '.join(begins)})"
    elif name in taken:
        wrong = "is taken in the results that are published"
    if wrong:
        yield f"the name {name!r} {wrong}: give another with --name"


def slug(text: str) -> str:
    """Return text as a part of a folder's name."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower().rpartition("/")[2]).strip("-.")


def of_about(about: About, records: Sequence[Record], today: date) -> Iterator[str]:
    """Refuse a folder that does not say who contributed it, when, and under which licences its
    models and data are."""
    credit = about.credit.strip()
    if not credit or len(credit) > MAX_CREDIT or not credit.isprintable():
        yield (
            f"about.toml needs a name to credit, of at most {MAX_CREDIT} characters: give "
            "--credit NAME"
        )
    newest = max((record.recorded[:10] for record in records), default="")
    if about.kind != "results":
        yield f"about.toml says kind = {about.kind!r}: only results are submitted"
    if about.submitted is None:
        yield "about.toml has no date: make the submission with bench submit"
    elif about.submitted > today + timedelta(days=1):  # of the eastern time zones
        yield f"about.toml has the date {about.submitted}, which is to come"
    elif about.submitted.isoformat() < newest:
        yield f"about.toml has the date {about.submitted}, but a record is of {newest}"
    for name, licence in licences.of_records(records, about.licences).items():
        if not licence:
            yield f"the licence of {name} is not known: give --licence '{name}=LICENCE'"
    for digits in about.weights:
        if not any(record.key.startswith(digits) for record in records):
            yield f"about.toml has weights of record {digits}, which is not here: leave them out"
    found = machine_path(about.model_dump(mode="json"))
    if found:
        yield f"about.toml has a path of your machine ({found}): leave it out"


def of_record(record: Record, items: Items | None, now: str) -> Iterator[str]:
    """Refuse a record that is unfinished, says too little, has a path of its machine, or cannot be
    made again."""
    names = [str(text) for text in record.identity.labels().values() if text is not None]
    for name in (*names, *(reading.metric for reading in record.readings)):
        if not is_plain(name):
            yield f"its name {name!a} is empty, or has invisible characters or spaces at its ends"
    if record.status not in DONE:
        yield f"it has {record.status}: submit records with numbers"
    if not record.processor or not record.machine.get("platform"):
        yield "it does not name its machine"
    if not record.versions.get("cast-bench") or not record.versions.get("torch"):
        yield "it does not name the versions that made it"
    if (
        not re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", record.recorded)
        or record.recorded > now
    ):
        yield f"its time {record.recorded!r} is none, or is to come"
    if record.commit.get("dirty"):
        yield (
            "it was made with uncommitted changes of the code, so no one else can make it: commit "
            "them and run again"
        )
    found = machine_path(record.model_dump(mode="json"))
    if found:
        yield f"it has a path of your machine ({found}): run it with a name or a relative path"
    if items is not None and (
        found := machine_path([*set(items.ids.tolist()), *set(items.clusters.tolist())])
    ):
        yield f"its items have a path of your machine ({found})"
    yield from _of_reproduction(record)
    yield from _of_bits(record)


def machine_path(value: Any) -> str:
    """Return the first path of a machine in a text, or in all texts of a JSON value."""
    if isinstance(value, str):
        match = MACHINE_PATH.search(value)
        return match[1][:80] if match else ""
    parts: list[Any] = []
    if isinstance(value, dict):
        parts = [*value, *value.values()]
    elif isinstance(value, list):
        parts = value
    return next(filter(None, map(machine_path, parts)), "")


def _of_reproduction(record: Record) -> Iterator[str]:
    identity = record.identity
    if "made_elsewhere" in record.notes:
        yield (
            f"it was measured by {record.notes['made_elsewhere']}, so bench run cannot make it "
            "again"
        )
        return
    if not find_alias(identity.model) and not HUB_ID.fullmatch(identity.model):
        yield f"its model {identity.model!r} is no alias and no hub id: no one else can load it"
    texts = (identity.calibration, identity.training)
    config = (record.key_inputs.get("measure") or {}).get("config") or {}
    names = [name for text in texts if text for name in shares_of(text.data)]
    for name in (*names, config.get("corpus")):
        if name and corpora.find(name) is None:
            yield f"its text {name!r} is no corpus of this suite: no one else has it"
    try:
        reproduce.settings(record)
    except UserError as fault:
        yield f"it does not say how it was made: {fault}"
    for one in record.plugins:
        if one.get("file"):
            yield (
                f"{one['name']} is a class in the file {one['distribution']}, which no one else "
                "has: install it as a plug-in"
            )
        if (one.get("commit") or {}).get("dirty"):
            yield "it was made with uncommitted changes of a plug-in: commit them and run again"
    provided = {one["name"] for one in record.plugins}
    named = [*(("methods", stage) for stage in identity.stages), ("quantizers", identity.quantizer)]
    stages = []
    try:
        for kind, label in named:
            name = label.split(":")[0]
            # A method may open its file when it is built, and the submitter chose the path.
            if kind == "methods" and re.search("[:/]file=", label):
                yield f"{name} reads a file that no one else has"
                return
            if name not in ("none", *(provided - registry.SECTIONS[kind].keys())):
                stages.append(registry.lookup(kind, choice.parse_method(label, kind).name))
        if identity.measure not in provided:
            registry.lookup("measures", identity.measure)
    except UserError as fault:
        yield f"bench run cannot make it again: {fault}"
        return
    if any(Does.IMPORTS in stage.does for stage in stages):
        yield "its model was made elsewhere: no one else can make it"
    if identity.training and not provided and not any(stage.trains for stage in stages):
        yield "it has a training text, but none of its methods trains"


def _of_bits(record: Record) -> Iterator[str]:
    """Refuse notes that store a weight in fewer bits than the quantizer's name says."""
    named = re.match(r"[a-z]+?(\d+)", record.identity.quantizer)
    stored = record.notes.get(STORED_KEY)
    if not named or not isinstance(stored, dict):
        return
    least = float(named[1])
    try:
        # Older notes have no number of weights to which to spread the bits of scales.
        bits = noted_bits(record.notes, stored.get("weights", math.inf))
    except (TypeError, KeyError, ArithmeticError):
        bits = NotedBits(0, 0, False)
    if bits.is_packed:
        least *= 1 - Pattern.parse(record.identity.pattern).share
    found = bits.values + bits.others
    if not least <= found:
        yield (
            f"its notes store {found:.4g} bits of a weight, and {record.identity.quantizer} has at "
            f"least {least:.4g}"
        )


def of_quantized_size(records: Sequence[Record]) -> Iterator[tuple[Record, str]]:
    """Refuse bits per weight that nothing explains: their artifact has no record that says how its
    weights are stored."""
    explained = {
        r.artifact for r in records if r.identity.measure == "pattern" and "stored" in r.notes
    }
    why = "nothing says how its bits are stored: submit the record `pattern` of its artifact, too"
    for record in records:
        is_quantized = record.identity.measure == "size" and record.identity.quantizer != "none"
        if is_quantized and record.artifact not in explained:
            yield record, why


def of_repetition(records: Sequence[Record], published: Published) -> Iterator[tuple[Record, str]]:
    """Refuse what is published, and a measurement that is there twice."""
    seen: dict[IdentityKey, Record] = {}
    for record in records:
        key = record.identity.key()
        first = seen.setdefault(key, record)
        if first is not record:
            yield record, f"it repeats the measurement of record {first.short_key}"
        if key in published:
            yield (
                record,
                f"{published[key][0]} has this measurement: leave it out (bench submit does)",
            )


def of_copies(
    records: Sequence[Record], published: Iterable[Record]
) -> Iterator[tuple[Record, str]]:
    """Refuse a perplexity of a pruned model that is that of a dense model, here or published.

    A perplexity follows from its items, so equal items are equal numbers however they are stored.
    """
    dense = [r for r in (*records, *published) if r.identity.stages == ("dense",)]
    for record in records:
        value = perplexity_of(record)
        if value is None or record.identity.pattern == "dense":
            continue
        for first in dense:
            other = perplexity_of(first)
            if other is not None and math.isclose(value, other, rel_tol=COPY_TOLERANCE):
                yield record, f"its scores are those of the dense model in record {first.short_key}"
                break


def perplexity_of(record: Record) -> float | None:
    return next((r.value for r in record.readings if r.metric == "perplexity"), None)


def of_dense(
    records: Iterable[Record], published: Iterable[Record]
) -> Iterator[tuple[Record, str]]:
    """Refuse a dense model whose numbers are not those that are published, beyond their margin."""
    known: dict[IdentityKey, Record] = {}
    for record in published:
        known.setdefault(record.identity.key("device", "seed"), record)
    for record in records:
        other = known.get(record.identity.key("device", "seed"))
        if other and record.identity.stages == ("dense",) and record.identity.quantizer == "none":
            yield from ((record, sentence) for sentence in differences(record, other))


def differences(record: Record, other: Record) -> Iterator[str]:
    """Yield a sentence for each number of a record that another has beyond its margin."""
    theirs = {r.metric: r.value for r in other.readings}
    for reading in record.readings:
        value, metric = theirs.get(reading.metric), metrics.find(reading.metric, reading.unit)
        margin = metric.margin
        if value is None or reading.value is None or margin is None or metric.is_time:
            continue
        scale = abs(value) if metric.is_ratio else 1.0
        if abs(reading.value - value) > margin * scale:
            yield (
                f"its {reading.metric} is {reading.value:.6g}, but {value:.6g} is published for "
                f"the same measurement (record {other.short_key}), more than the margin of "
                f"{margin:g} away"
            )


def of_protocol(
    records: Iterable[Record], published: Iterable[Record]
) -> Iterator[tuple[Record, str]]:
    """Refuse a text or task in another protocol than that of the published rows of its model. For a
    new model, refuse what is not the default."""
    labels: dict[tuple[str, str, str], set[str]] = {}
    versions: dict[str, set[str | None]] = {}
    for record in published:
        identity = record.identity
        key = (identity.model, identity.measure, identity.protocol.name)
        labels.setdefault(key, set()).add(identity.protocol.label)
        versions.setdefault(identity.protocol.name, set()).add(identity.protocol.version)
    for record in records:
        identity, protocol = record.identity, record.identity.protocol
        if identity.subject not in ("text", "task") or identity.measure == "pattern":
            continue
        known = labels.get((identity.model, identity.measure, protocol.name), set())
        wrong = "" if protocol.label in known else _odd_protocol(identity, known, versions)
        if wrong:
            yield record, f"its protocol is {protocol.label}, {wrong}"


def _odd_protocol(
    identity: Identity, known: Collection[str], versions: Mapping[str, Collection[str | None]]
) -> str:
    """Return why the protocol of a text or task is not one that rows of its model have, or "".

    known: protocols of published rows of this model and measure. versions: of published tasks.
    """
    protocol, alias = identity.protocol, find_alias(identity.model)
    if known:
        return f"but published rows have {', '.join(sorted(known))}"
    if VALIDATION in protocol.name:
        return "a validation split, on which settings are chosen"
    if protocol.limit is not None or protocol.prompt or protocol.engine:
        return "a part of the text or task, or another prompt: measure all of it"
    others = versions.get(protocol.name, ())
    if identity.subject == "task" and others and protocol.version not in others:
        return f"but published rows have version {', '.join(sorted(map(str, others)))}"
    if identity.subject == "text" and alias and protocol.seqlen != alias.seqlen:
        return f"but papers use windows of {alias.seqlen} tokens"
    return ""
