"""A command: its parameters are the flags, and its docstring is the help."""

import math
from pathlib import Path
from typing import Annotated

import typer

from methods.model.folder import Folder


def weights(
    folder: Annotated[Path, typer.Argument(help="Folder of a model.")],
    layer: Annotated[str, typer.Option(help="Only tensors with this in their name.")] = "",
) -> None:
    """Print the number of weights of a model folder."""
    shapes = Folder(folder).shapes()
    print(sum(math.prod(shape) for name, shape in shapes.items() if layer in name))
