"""sppnet export …"""

from pathlib import Path
from typing import Annotated

import typer

from sppnet.cli.destinations import check_file

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def export() -> None:
    """Keeps `onnx` a subcommand while it is the only one."""


@app.command()
def onnx(
    model: Annotated[Path, typer.Option("--model", help="Classifier or detector made by training.")],
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
) -> None:
    """Write a model as ONNX, for images of any size, once it has been found to agree with PyTorch."""
    from sppnet.cli.models import open_model
    from sppnet.cli.output import Bars
    from sppnet.export.onnx import export_model

    check_file(out, "--out", [model])
    with Bars() as bars:
        export_model(open_model(model), out, bars)
    typer.echo(out)
