"""sppnet features"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.cli.destinations import check_file
from sppnet.cli.images import tell_skipped, work_on
from sppnet.cli.options import Device, ExecutorOption, FormerEngine, parse_integers
from sppnet.nn.published_url import check_reachable

if TYPE_CHECKING:
    from sppnet.image_vectors import SPPFeatures


def features(
    images: Annotated[list[str], typer.Argument(help="Files, folders, or patterns such as 'photos/*.jpg'.")],
    out: Annotated[Path, typer.Option(help="File of vectors: .safetensors or .parquet (ray: a folder).")],
    trunk: Annotated[
        str | None, typer.Option(help="A network as for classify train. Default: mobilenet_v2:18.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Trunk weights: a file, or imagenet (downloaded once).")
    ] = None,
    levels: Annotated[str | None, typer.Option(help="Pyramid. Default: the model's, or 1,2,3,6.")] = None,
    scale: Annotated[
        int | None, typer.Option(help="Shorter side of images, pixels. Default: the model's, or 224.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Classifier or detector whose trunk is taken, as it was used.")
    ] = None,
    device: Device = "auto",
    executor: ExecutorOption = "local",
    engine: FormerEngine = None,
) -> None:
    """Write a vector for each image. Exits with 1 if an image could not be read, after all others."""
    check_reachable(trunk or "mobilenet_v2", weights)
    from sppnet.cli.vectors import check_suffix, write_vectors
    from sppnet.data.files import list_images
    from sppnet.image_vectors import SPPFeatures

    on_ray = executor == "ray"
    check_suffix(out, folder=on_ray)  # before the work, not after it
    listed = list_images(images)
    if not on_ray:
        check_file(out, "--out", [*listed.paths, *([model] if model else [])])
    chosen = None if levels is None else parse_integers("--levels", levels)
    extractor = SPPFeatures(trunk, weights, chosen, scale, model, device).fit()
    if on_ray:
        reasons = _extract_on_ray(extractor, listed.paths, out)
    else:
        vectors, why = work_on("features", listed.paths, extractor.vector)
        write_vectors(out, listed.paths, vectors, why, extractor.n_features_out_, _described(extractor))
        reasons = list(why.values())
    skipped = tell_skipped(listed, reasons)
    typer.echo(out)
    if skipped:
        raise typer.Exit(1)


def _extract_on_ray(extractor: "SPPFeatures", paths: Sequence[Path], out: Path) -> list[str]:
    """Writes a folder of Parquet files; why images could not be read."""
    import json

    from sppnet.cli.output import Bars
    from sppnet.cli.vectors import KIND
    from sppnet.engine.batch import run_on_ray
    from sppnet.engine.work import Extracting

    parameters = {**extractor.get_params(), "device": "auto"}
    if parameters["model"] is not None:
        parameters["model"] = str(parameters["model"])
    described = json.dumps({"kind": KIND, **_described(extractor)})
    work = Extracting(tuple(parameters.items()), described=described)
    with Bars() as bars:
        return run_on_ray(work, paths, out, extractor.device, "features", bars)


def _described(extractor: "SPPFeatures") -> dict[str, Any]:
    """What decides the vectors, for their file. Folders, which may be private, stay out."""
    from sppnet.data.files import writable_name

    given = {"weights": extractor.weights, "model": extractor.model}
    named = {key: None if value is None else writable_name(Path(value).name) for key, value in given.items()}
    trunk = extractor.trunk_.name
    return {"trunk": trunk, **named, "levels": list(extractor.levels_), "scale_px": extractor.scale_px_}
