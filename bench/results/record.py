"""The stored form of one measurement: identity, key, status, readings, provenance."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import from_json

from bench.results.identity import MAX_WHOLE, Identity, Whole
from bench.system import digests
from bench.system.suggest import shorten
from bench.system.values import describe_allowed
from methods.contract.errors import UserError

DECIDES_NO_NUMBER = True

SCHEMA = 4
"""Schema of all records. This version reads no other."""

Status = Literal["ok", "diverged", "skipped", "failed"]

RENAMED_MODELS = {
    (
        "smollm2-135m",
        "6552ae7d47a3749cedb8b52ce99fad52a3a5d8b185949da19bcb740eac0b3385",
    ): "smollm2-135m-instruct-q4"
}
"""Today's name of a model, by the name in a record and the digest of the model's weights."""

CPU_GENERATIONS = {
    "6/85": "Skylake",
    "6/106": "Ice Lake",
    "6/143": "Sapphire Rapids",
    "6/167": "Rocket Lake",
    "6/173": "Granite Rapids",
    "6/207": "Emerald Rapids",
    "23/49": "Zen 2",
    "25/1": "Zen 3",
    "25/17": "Zen 4",
    "26/2": "Zen 5",
}
"""Generation of a CPU by family and model, as Linux numbers them (arch/x86/include/asm)."""

DONE = ("ok", "diverged")
"""Statuses that a later run does not try again."""


class Reading(NamedTuple):
    """One number."""

    metric: str
    value: float
    unit: str | None = None
    """None for the unit of the declared metric."""
    better: str | None = None
    """ "lower", "higher", or "" if neither is better. None for the direction of the declared
    metric."""
    stderr: float | None = None
    n: int | None = None


class Item(NamedTuple):
    """The score of one window or question. Paired statistics pair these."""

    item_id: str
    cluster_id: str
    value: float
    weight: float
    beside: Mapping[str, float] = MappingProxyType({})
    """Values of further metrics, by name."""


class ReadingRow(BaseModel, extra="forbid", allow_inf_nan=False):
    metric: str
    value: Annotated[float, Field(strict=True)] | None
    unit: str
    better: str
    stderr: Annotated[float, Field(strict=True, ge=0)] | None = None
    n: Whole | None = None


class NoItems(UserError):
    """A record has no scores of single items."""


class ItemsFile(BaseModel, strict=True):
    file: str
    rows: Annotated[Whole, Field(ge=1)]
    sha256: str
    size: Whole | None = None
    """Bytes of the file. None if the record does not say."""

    def require_whole(self, content: bytes, name: str) -> None:
        """Raise UserError if the content of the file is another. name: the file, for the error."""
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256 or self.size not in (None, len(content)):
            raise UserError(
                f"checksum mismatch: {name} is missing or is not that of its record: delete the "
                "record and run again"
            )


class _Shape(BaseModel, extra="allow", strict=True):
    """Part of a record that may have further fields."""


def _check_time(text: str) -> str:
    """Require a date of the calendar, as `bench.system.provenance.format_time` writes it."""
    if text:
        datetime.fromisoformat(text)
    return text


Time = Annotated[str, AfterValidator(_check_time)] | None


class _Commit(_Shape):
    id: str | None = None
    time: Time = None
    dirty: bool | None = None


class _Plugin(_Shape):
    name: str
    distribution: str
    version: str
    commit: _Commit | None = None
    file: str | None = None
    """FILE:CLASS of a class in a file that the user named. Its version is the digest of the
    file."""


class _Provenance(_Shape):
    commit: _Commit | None = None
    plugins: list[_Plugin] = []
    machine: dict[str, str | int | float | dict[str, str] | None] | None = None
    versions: dict[str, str | None] | None = None
    recorded: Time = None


MAX_AMOUNT = 1e18
"""Largest cost in seconds, bytes or tokens. Reports add costs, and no sum of them overflows."""

Amount = Annotated[float, Field(ge=0, le=MAX_AMOUNT)] | None


class _RecordCost(_Shape):
    wall_s: Amount = None
    build_s: Amount = None
    peak_bytes: Amount = None
    build_peak_bytes: Amount = None
    tokens: Amount = None
    calibration_tokens: Amount = None
    training_tokens: Amount = None
    training_tokens_per_s: Amount = None


class _EngineNotes(_Shape):
    """Notes of a timing in an engine with which reports compute."""

    noise: dict[str, float]
    in_turn: list[str]
    threads: int
    kv_tokens: int
    prompt_tokens: int
    load: float = 0.0


def _shaped(shape: type[_Shape]) -> AfterValidator:
    """Return a check that known keys of a dict have the types of a shape. Other keys may have
    any."""

    def check(value: dict[str, Any]) -> dict[str, Any]:
        shape.model_validate(value)
        return value

    return AfterValidator(check)


class OtherSchema(UserError):
    """A record of another version, which is not damaged."""


class Record(BaseModel, extra="forbid"):
    """The outcome of one measurement."""

    schema_version: int = SCHEMA
    key: str
    identity: Identity
    artifact: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Key of the pruned model that was measured, and the name of its folder in the cache."""
    status: Status
    reason: str = ""
    traceback: str = ""
    readings: list[ReadingRow] = []
    items: ItemsFile | None = None
    token_digest: str = ""
    notes: dict[str, Any] = {}
    key_inputs: dict[str, Any] = {}
    """Values whose digest is the key."""
    cost: Annotated[dict[str, Any], _shaped(_RecordCost)] = {}
    provenance: Annotated[dict[str, Any], _shaped(_Provenance)] = {}
    _digest: str = PrivateAttr("")

    @property
    def digest(self) -> str:
        """Digest of the stored text, which signatures name. Empty for a record that was not
        read."""
        return self._digest

    @property
    def is_engine_timing(self) -> bool:
        """Return whether `bench speed --engine` made it. An imported record has a harness in the
        same field."""
        return (
            self.status == "ok"
            and self.identity.measure == "speed"
            and bool(self.identity.protocol.engine)
        )

    @property
    def stem(self) -> str:
        """Name of the record's files, and of the record in reports."""
        return self.key[:32]

    @property
    def short_key(self) -> str:
        """Key for sentences."""
        return self.key[:12]

    @property
    def commit(self) -> dict[str, Any]:
        """`id`, `time` and `dirty` of the code that made the record, if known."""
        return self.provenance.get("commit") or {}

    @property
    def commit_id(self) -> str:
        """Commit, or "" if unknown."""
        return str(self.commit.get("id") or "")

    @property
    def plugins(self) -> list[dict[str, Any]]:
        """Plug-ins that took part: `name`, `distribution`, `version`, and `commit` if it is
        known."""
        return self.provenance.get("plugins") or []

    @property
    def code(self) -> dict[str, Any]:
        """The commit that a history follows: of the first plug-in that has one, else of this
        suite."""
        return (
            next((one["commit"] for one in self.plugins if one.get("commit")), None) or self.commit
        )

    @property
    def versions(self) -> dict[str, Any]:
        """Versions by library, if known."""
        return self.provenance.get("versions") or {}

    @property
    def machine(self) -> dict[str, Any]:
        """`cpu`, `device` and more, if known."""
        return self.provenance.get("machine") or {}

    @property
    def processor(self) -> str:
        """Name of the accelerator, else of the CPU, or "" if unknown."""
        return str(self.machine.get("device") or self.machine.get("cpu") or "")

    @property
    def processor_kind(self) -> str:
        """Name of the accelerator, else of the CPU with generation and instruction set, or "" if
        unknown.

        Clouds call CPUs of several generations by one name, such as "AMD EPYC".
        """
        about = self.machine
        family = "/".join(str(about.get("cpu_model", "")).split("/")[:2])
        level = str(about.get("isa") or about.get("instruction_set") or "").upper()
        details = ", ".join(filter(None, (CPU_GENERATIONS.get(family, ""), level)))
        if about.get("device") or not details:
            return self.processor
        return f"{self.processor} ({details})"

    @property
    def recorded(self) -> str:
        """Time of the measurement, or "" if unknown."""
        return str(self.provenance.get("recorded") or "")

    def to_json(self, indent: int | None = None) -> str:
        """Return the stored text, with a digest of all fields that shows a later change."""
        fields = json.loads(self.model_dump_json())
        return json.dumps(
            fields | {"digest": digests.of(fields)}, indent=indent, ensure_ascii=False
        )


class _NamedInputs(BaseModel):
    model: Any = None


class _NamedProvenance(BaseModel):
    recorded: Any = None


class RecordName(BaseModel):
    """What a list says of a record. Nothing else of it is looked at, or made an object."""

    schema_version: Any
    key: str
    identity: Identity
    status: Status
    key_inputs: _NamedInputs = _NamedInputs()
    provenance: _NamedProvenance = _NamedProvenance()

    @property
    def recorded(self) -> str:
        """Time of the measurement, or "" if unknown."""
        return str(self.provenance.recorded or "")

    @field_validator("schema_version")  # the first field is read before the others
    @classmethod
    def _require_schema(cls, value: Any, info: ValidationInfo) -> Any:
        require_schema(value, str(info.context))
        return value


def parse_name(content: bytes, name: str) -> RecordName:
    """Return the name of the record in a JSON text, for a list of records. Its digest is not
    compared. Raise as `parse` does."""
    with _one_error():
        named = RecordName.model_validate_json(content, context=name)
    named.identity = _rename(named.identity, named.key_inputs.model)
    return named


def parse(content: bytes, name: str, *, known: bool = False) -> Record:
    """Return the record in a JSON text. Every record from outside is read here: of folders,
    baselines and other machines.

    name: where the text was read, for the error. known: whether this function has accepted these
    very bytes before.

    Raises:
        OtherSchema: it has another schema.
        ValueError: it is no record, or was changed after it was written.
    """
    with _one_error():
        if known:
            fields = json.loads(content)
            digest = fields.pop("digest")
        else:
            fields, digest = _read_fields(content, name)
        record = Record.model_validate(fields)
        if record.is_engine_timing:
            _EngineNotes.model_validate(record.notes)
        record._digest = digest
    record.identity = _rename(record.identity, record.key_inputs.get("model"))
    return record


def _rename(identity: Identity, model: Any) -> Identity:
    """Return an identity with today's name of its model. model: that of the key's inputs."""
    today = RENAMED_MODELS.get((identity.model, str(model)))
    if today is None:
        return identity
    return identity.model_copy(update={"model": today})


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """Raise ValueError with a sentence for all that is wrong with a record's text."""
    try:
        yield
    except ValidationError as fault:
        first = fault.errors()[0]
        place = ".".join(map(str, first["loc"])) or "text"
        raise ValueError(
            f"its {place} is {shorten(repr(first['input']))}, but {describe_allowed(first)}"
        ) from None
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as fault:
        raise ValueError(f"{type(fault).__name__}: {fault}") from None


def _read_fields(content: bytes, name: str) -> tuple[dict[str, Any], str]:
    """Return the fields of a record's text, and their digest."""
    from_json(content, allow_inf_nan=False)  # refuses deep values, and what is not UTF-8
    fields = json.loads(content, parse_int=_whole_number)
    require_schema(fields["schema_version"], name)
    digest = fields.pop("digest", None)
    if digest != digests.of(fields):
        raise ValueError("it was changed after it was written: its digest is of other content")
    return fields, digest


def _whole_number(text: str) -> int:
    """Return a whole number of 63 bits and a sign, as Parquet, pandas and JavaScript's BigInt64
    have."""
    if len(text) > len(str(MAX_WHOLE)) + 1 or abs(int(text)) > MAX_WHOLE:
        raise ValueError(f"{shorten(text)} is a whole number of more than 63 bits")
    return int(text)


def require_schema(version: Any, name: str) -> None:
    """Raise OtherSchema if the schema is not that of this version, or ValueError if it is no
    number."""
    if type(version) is not int:
        raise ValueError(f"schema_version is {version!r}, not a whole number")
    if version != SCHEMA:
        remedy = "upgrade cast-bench" if version > SCHEMA else "measure it again"
        raise OtherSchema(
            f"{name} has schema {version}, but this version reads only schema {SCHEMA}: {remedy}"
        )
