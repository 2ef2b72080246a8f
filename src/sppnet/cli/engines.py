"""Who does the work on many images: this process, or those of a Ray."""

from enum import StrEnum
from typing import Annotated

import typer


class Engine(StrEnum):
    local = "local"
    ray = "ray"


EngineOption = Annotated[
    Engine, typer.Option(help="local, or ray: all cores, or the machines of RAY_ADDRESS (docs/cluster.md).")
]
