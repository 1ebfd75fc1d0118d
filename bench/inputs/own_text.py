"""Text files of a user: .txt, .jsonl and .parquet, or a folder of them.

A .txt file is one document. Each line of a .jsonl file and each row of a .parquet file is one: its
`text`, or its `messages` through the model's chat template. `FILE:FIELD` names another field.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench.system import digests
from bench.system.bounded import bounded_memory
from methods.contract.errors import UserError

SUFFIXES = (".txt", ".jsonl", ".parquet")
TEXT, MESSAGES = "text", "messages"
TEMPLATE_BYTES = 2**30
"""Memory that a chat template may take for a list of messages, in bytes."""
ENCODING, FIRST = "utf-8-sig", 2**16
"""Encoding of text, with or without a byte order mark, and number of characters that are read for a
check."""


Render = Callable[[list[Any]], str]
"""Function that writes a list of messages as the model's chat template does."""


class OwnText(NamedTuple):
    """A path as typed, and the field that has the text; "" for `text` or `messages`."""

    path: Path
    field: str

    @property
    def files(self) -> list[Path]:
        """The files, sorted by name. Raise UserError if there is none."""
        path = self.path
        found = (
            [path] if path.is_file() else sorted(f for s in SUFFIXES for f in path.glob(f"*{s}"))
        )
        if not found:
            raise UserError(
                f"text {str(path)!r} does not exist or has no {', '.join(SUFFIXES[:-1])} or "
                f"{SUFFIXES[-1]} file: check the path"
            )
        return found


def parse(name: str) -> OwnText | None:
    """Return the path of a name, or None if it is the name of a corpus."""
    path, colon, field = name.rpartition(":")
    if colon and not Path(name).exists() and _is_path(path):
        return OwnText(Path(path), field)
    return OwnText(Path(name), "") if _is_path(name) else None


def _is_path(name: str) -> bool:
    return os.sep in name or name.endswith(SUFFIXES) or name in (".", "..")


def content_digest(own: OwnText) -> str:
    """Return the digest of the files and of the field."""
    content = [digests.of_file(f) for f in own.files]
    if own.field:
        content.append(own.field)
    return digests.of(content)


def count_bytes(own: OwnText) -> int:
    """Return the size of the files in bytes."""
    return sum(file.stat().st_size for file in own.files)


def has_messages(name: str) -> bool:
    """Return whether a corpus is a user's text with messages. A chat template, and so the model,
    then decides the number of tokens."""
    own = parse(name)
    found: list[Any] = []

    def render(messages: list[Any]) -> str:
        found.append(messages)
        return ""

    return own is not None and any(found for _ in read(own, render))


def check(name: str, model: str, *, lacks_template: bool) -> None:
    """Require text or messages in the first document of each file, before a model is loaded.

    model: name of the model; lacks_template: True if it cannot read messages.
    """
    chats: list[Any] = []

    def render(messages: list[Any]) -> str:
        chats.append(messages)
        return ""

    own = parse(name)
    if own is None:
        return
    for file in own.files:
        if file.suffix in (".jsonl", ".parquet"):
            next(read(OwnText(file, own.field), render), None)
            continue
        # other files are one document, as large as it may be
        with _require_unicode(file), file.open(encoding=ENCODING) as text:
            text.read(FIRST)
    if chats and lacks_template:
        raise UserError(f"{name} has messages, and {model} has no chat template: use plain text")


def read(own: OwnText, render: Render | None = None) -> Iterator[str]:
    """Yield the documents. render: writes messages. None: their contents alone, for a count before
    a model is loaded."""
    for file in own.files:
        if file.suffix == ".parquet":
            yield from _read_parquet(file, own.field, render)
            continue
        with _require_unicode(file):
            if file.suffix == ".jsonl":
                with file.open(encoding=ENCODING) as lines:
                    for number, line in enumerate(lines, 1):
                        text = _text_of(
                            _parse(line), own.field, render, f"{file} line {number}", "JSON with a"
                        )
                        text.encode()  # JSON can name half of a character
                        yield text
            else:
                yield file.read_text(encoding=ENCODING)


@contextmanager
def _require_unicode(file: Path) -> Iterator[None]:
    """Refuse a file that is not text in UTF-8."""
    try:
        yield
    except UnicodeError as fault:
        raise UserError(
            f"{file} is not text in UTF-8 ({fault}): convert it, or use another file"
        ) from None


def _read_parquet(file: Path, field: str, render: Render | None) -> Iterator[str]:
    from pyarrow import ArrowException, parquet

    try:
        opened = parquet.ParquetFile(file)
        names = [field] if field else [TEXT, MESSAGES]
        column = next((name for name in names if name in opened.schema_arrow.names), None)
        if column is None:
            raise UserError(_lacks(str(file), "a table with a", field))
        # All rows of a small file can refer to one long text, so only few rows are decoded at once.
        for batch in opened.iter_batches(batch_size=256, columns=[column]):
            for row in batch.to_pylist():
                yield _text_of(row, field, render, str(file), "a table with a")
    except (ArrowException, OSError, UnicodeDecodeError) as fault:
        raise UserError(
            f"{file} cannot be read as Parquet ({fault}): write it again, or use another file"
        ) from None


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _text_of(row: Any, field: str, render: Render | None, where: str, kind: str) -> str:
    row = row if isinstance(row, dict) else {}
    value = row.get(field) if field else row.get(TEXT, row.get(MESSAGES))
    if isinstance(value, str):
        return value
    is_chat = (
        isinstance(value, list)
        and value
        and all(isinstance(m, dict) and "role" in m for m in value)
    )
    if is_chat and render:
        return render(value)
    if is_chat:
        return "\n".join(str(message.get("content") or "") for message in value)
    raise UserError(_lacks(where, kind, field))


def _lacks(where: str, kind: str, field: str) -> str:
    return (
        f'{where} is not {kind} "{field or TEXT}": correct it, name a field (FILE:FIELD), or use '
        "plain .txt files"
    )


def template_of(tokenizer: Any) -> Render:
    """Return a function that writes messages with a tokenizer's chat template. It raises UserError
    if that refuses them."""

    def render(messages: list[Any]) -> str:
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "the text has messages, and the model's tokenizer has no chat template: use plain "
                "text"
            )
        return fill_template(partial(tokenizer.apply_chat_template, messages, tokenize=False))

    return render


def fill_template(write: Callable[[], Any]) -> str:
    """Return the text that a chat template makes. Limit its memory: jinja's sandbox does not."""
    try:
        with bounded_memory(TEMPLATE_BYTES):
            return str(write())
    except Exception as fault:  # noqa: BLE001 (the template may raise anything)
        why = str(fault) or type(fault).__name__
        raise UserError(f"the model's chat template refuses a list of messages: {why}") from None
