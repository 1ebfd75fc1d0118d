"""Names that look alike, by Unicode's confusables and character properties."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import regex
from confusable_homoglyphs.confusables import confusables_data

DECIDES_NO_NUMBER = True

INVISIBLE = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{C}\u2800]")
"""Characters that leave no mark: of Unicode's property, controls, and the blank of Braille."""


def is_plain(name: str) -> bool:
    """Return whether a name has a visible character, no invisible one, and no space at its ends."""
    return bool(name) and name == name.strip() and not INVISIBLE.search(name)


@lru_cache(maxsize=2**16)
def look(name: str) -> tuple[str, str]:
    """Return two texts of a name. Names that share one look alike.

    The first is without case, spaces at the ends and invisible characters. The second is the
    skeleton of UTS 39 without case.
    """
    seen = " ".join(INVISIBLE.sub("", unicodedata.normalize("NFKC", name)).split())
    skeleton = "".join(map(_prototype, unicodedata.normalize("NFD", seen)))
    return seen.casefold(), unicodedata.normalize("NFC", skeleton).casefold()


def _prototype(character: str) -> str:
    """Return the text for which UTS 39 takes a character.

    The library lists for a character its prototype, and for a prototype all of its characters.
    """
    found = [one["c"] for one in confusables_data.get(character, ())]
    if len(found) != 1:
        return character
    (other,) = found
    is_prototype = len(other) > 1 or len(confusables_data.get(other, ())) > 1 or other < character
    return other if is_prototype else character
