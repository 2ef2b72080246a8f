"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sppnet.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Report = Annotated[
    Path | None, typer.Option("--report", help="The report. Default: evaluation.html beside the model.")
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.")]

Executor = Literal["local", "ray"]
ExecutorOption = Annotated[
    Executor, typer.Option(help="local, or ray: all cores, or the machines of RAY_ADDRESS (docs/cluster.md).")
]
"""Who does the work on many images: this process, or those of a Ray."""


def _refuse_engine(given: str | None) -> None:
    if given is not None:
        raise ConfigError(
            f"--engine is called --executor here, local or ray: write --executor {given} (--engine is what "
            "runs the trunk, of detect train)"
        )


FormerEngine = Annotated[str | None, typer.Option("--engine", hidden=True, callback=_refuse_engine)]
"""What `ExecutorOption` was called in version 0.1."""


def parse_integers(
    option: str, text: str, expected: str = "integers such as 1,2,3,6", count: int | None = None
) -> tuple[int, ...]:
    """Integers between commas, `count` of them if that is given; raises ConfigError for anything else."""
    return tuple(int(number) for number in parse_numbers(option, text, expected, count, int))


def parse_numbers(
    option: str, text: str, expected: str, count: int | None = None, kind: type[float] = float
) -> tuple[float, ...]:
    """Numbers between commas, as `parse_integers`."""
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or count not in (None, len(numbers)):
        raise ConfigError(f'{option} must be {expected}; got "{text}"')
    return numbers
