"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Report = Annotated[
    Path | None, typer.Option("--report", help="The report. Default: evaluation.html beside the model.")
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.")]
