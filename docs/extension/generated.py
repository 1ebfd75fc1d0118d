"""Fill a page while it is read: a comment on a line of its own stands for text that the program knows.

<!-- overview: methods -->       a table of all names of a section: methods, quantizers or measures
<!-- facts: methods wanda -->    one of them: source, cost, needs, settings, and the docstring of its class
<!-- unwritten: methods -->      the same for all that no page describes, each under its own heading
<!-- training -->                the settings of every method that trains
<!-- commands -->                every command and option
<!-- settings -->                every setting of a run
<!-- families -->                what works on which family of models
<!-- public -->                  the docstrings of the public names
<!-- notebook: api.ipynb -->     the cells of a notebook
"""

from __future__ import annotations

import re
from collections.abc import Callable

from sphinx.application import Sphinx

from extension import catalog, program

BLOCKS: dict[str, Callable[..., str]] = {
    "overview": catalog.overview,
    "facts": catalog.facts,
    "unwritten": catalog.unwritten,
    "training": catalog.training,
    "commands": program.commands,
    "settings": program.settings,
    "families": program.families,
    "public": program.public,
    "notebook": program.notebook,
}
COMMENT = re.compile(rf"^<!-- ({'|'.join(BLOCKS)})(?:: ([^>]+))? -->$", re.MULTILINE)


def fill(text: str) -> str:
    return COMMENT.sub(lambda match: BLOCKS[match[1]](*(match[2] or "").split()), text)


def on_source(app: Sphinx, page: str, source: list[str]) -> None:
    source[0] = fill(source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", on_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
