"""Signatures of records, made and verified by ssh-keygen as git does: a signed list of the records'
digests.

A list is two files in `signatures/`: NAME.txt with a line `KEY DIGEST` for each record, and
NAME.txt.sig. A merge copies both.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.results.record import Record
from bench.results.store import ReadOnlyStore, Store
from bench.system.files import write_file
from methods.contract.errors import UserError

NAMESPACE = "cast-bench"
"""Namespace of signatures, so that a signature of another program's text is none of a record."""
HEADER = "cast-bench records, schema 1"
FOLDER = "signatures"


@dataclass(frozen=True)
class Signers:
    """The verified signatures of a results folder."""

    by_digest: dict[str, str]
    """Signer by the digest of a record. Several names are joined by commas."""
    problems: tuple[str, ...]
    """Sentences about lists whose signature is not valid."""

    def of(self, record: Record) -> str:
        """Return who signed a record, or ""."""
        return self.by_digest.get(f"{record.key} {record.digest}", "")


def sign(root: Path, records: Sequence[Record], key: Path) -> Path:
    """Sign records of a results folder with an ssh key, and return the list. The same records give
    the same list."""
    if not records:
        raise UserError(f"results folder {str(root)!r} has no records to sign: name another")
    text = "\n".join([HEADER, *sorted(f"{r.key} {r.digest}" for r in records)]) + "\n"
    name = f"{_name(text.encode())}.txt"
    Store(root)  # refuses links, and a folder that cannot be written
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / name
        listed.write_text(text)
        done = _keygen("-Y", "sign", "-f", str(key.absolute()), "-n", NAMESPACE, str(listed))
        if done.returncode:
            raise UserError(
                f"ssh-keygen cannot sign with {str(key)!r} ({_last_line(done)}): use a private "
                "ssh key, for example ~/.ssh/id_ed25519"
            )
        signature = listed.with_name(f"{name}.sig").read_bytes()
    target = root / FOLDER / name
    for path, content in ((target.with_name(f"{name}.sig"), signature), (target, text.encode())):
        if path.is_symlink():
            path.unlink()
        write_file(path, content)
    return target


def verify(root: Path, allowed: Path) -> Signers:
    """Return who signed which records of a folder. allowed: file of allowed signers, as ssh-keygen
    and git read it."""
    found: dict[str, dict[str, None]] = {}
    problems = []
    for path in _lists(root):
        try:
            text, signature = _read(path), _read(path.with_name(f"{path.name}.sig"))
            signers = _signers(text, signature, allowed.absolute())
        except ValueError as fault:
            problems.append(f"{path}: {fault}")
            continue
        for line in text.decode(errors="replace").splitlines():
            found.setdefault(line, {}).update(dict.fromkeys(signers))
    return Signers(
        {line: ", ".join(sorted(names)) for line, names in found.items()}, tuple(problems)
    )


def copy(source: ReadOnlyStore, target: Store) -> None:
    """Copy all signed lists of a folder whose names are of their content. A list that is no longer
    of any record does no harm."""
    for path in _lists(source.root):
        for one in (path, path.with_name(f"{path.name}.sig")):
            place = target.root / FOLDER / one.name
            with contextlib.suppress(ValueError):
                if _name(_read(path)) == path.stem and not os.path.lexists(place):
                    write_file(place, _read(one))


def _name(text: bytes) -> str:
    """Return the name of a list, without its suffix."""
    return hashlib.sha256(text).hexdigest()[:32]


def _lists(root: Path) -> list[Path]:
    if (root / FOLDER).is_symlink():
        raise UserError(f"{root / FOLDER} is a link: replace it by a folder")
    return sorted((root / FOLDER).glob("*.txt"))


def _read(path: Path) -> bytes:
    """Read a regular file. Raise ValueError if it is none."""
    if not path.is_file() or path.is_symlink():
        raise ValueError(f"{path.name} is no file")
    return path.read_bytes()


def _signers(text: bytes, signature: bytes, allowed: Path) -> list[str]:
    """Return the allowed signers of a text. Raise ValueError if no allowed signer has signed it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "signature"
        file.write_bytes(signature)
        found = _keygen("-Y", "find-principals", "-f", str(allowed), "-s", str(file))
        if found.returncode:
            raise ValueError(f"no signer in {allowed.name} has signed it ({_last_line(found)})")
        names = found.stdout.decode(errors="replace").splitlines()
        for name in names:
            about = ("-f", str(allowed), "-I", name, "-n", NAMESPACE, "-s", str(file))
            done = _keygen("-Y", "verify", *about, content=text)
            if done.returncode:
                raise ValueError(f"its signature by {name} is not valid ({_last_line(done)})")
    return names


def _keygen(*arguments: str, content: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run ssh-keygen. content: its standard input, which is ours without one, because it may ask
    for a passphrase."""
    program = shutil.which("ssh-keygen")
    if program is None:
        raise UserError(
            "signatures need ssh-keygen, which is not installed: install OpenSSH (openssh-client)"
        )
    return subprocess.run([program, *arguments], input=content, capture_output=True)


def _last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return lines[-1][:120] if lines else f"code {done.returncode}"


SIGNED_BY = "signed by"
"""Head of the column of signers in tables."""


def names(records: Iterable[Record], signers: Signers) -> dict[str, str]:
    """Return who signed each record, by its stem. "" for an unsigned record."""
    return {record.stem: signers.of(record) for record in records}


def of_row(stems: Iterable[str], names: Mapping[str, str]) -> str:
    """Say who signed the records of a table's row, and how many are signed if not all are."""
    found = [names.get(stem, "") for stem in dict.fromkeys(stems)]
    who = ", ".join(sorted({name for text in found for name in text.split(", ")} - {""}))
    if not who:
        return "unsigned"
    signed = sum(map(bool, found))
    if signed == len(found):
        return who
    return f"{who} ({signed} of {len(found)} records)"


def counts(records: Sequence[Record], signers: Signers) -> Iterator[tuple[str, int]]:
    """Yield each signer and the number of records that it signed. "" is last, for unsigned
    records."""
    names = [signers.of(record) for record in records]
    for name in sorted(set(names), key=lambda name: (not name, name)):
        yield name, names.count(name)
