"""sppnet features"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.cli.engines import Engine, EngineOption
from sppnet.cli.options import Device

if TYPE_CHECKING:
    from sppnet.classify.features import SPPFeatures, Vectors


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
    engine: EngineOption = Engine.local,
) -> None:
    """Write a vector for each image. Exits with 1 if an image could not be read, after all others."""
    from sppnet.classify.features import SPPFeatures
    from sppnet.cli.output import notes
    from sppnet.cli.vectors import check_suffix, write_vectors
    from sppnet.data.files import find_images

    check_suffix(out, folder=engine is Engine.ray)  # before the work, not after it
    paths = find_images(images)
    extractor = SPPFeatures(trunk, weights, _levels(levels), scale, model, device).fit()
    if engine is Engine.ray:
        skipped = _extract_on_ray(extractor, paths, out)
    else:
        names, vectors, skipped = _extract(extractor, paths)
        write_vectors(out, names, vectors, _described(extractor))
    for reason in skipped:
        notes.print(f"left out: {reason}", soft_wrap=True, markup=False)
    typer.echo(out)
    if skipped:
        raise typer.Exit(1)


def _extract(extractor: "SPPFeatures", paths: list[Path]) -> "tuple[list[str], Vectors, list[str]]":
    """Names and vectors of the images that can be read, and why the others cannot."""
    import numpy as np

    from sppnet.cli.images import each_image
    from sppnet.errors import ImageError

    vectors = np.empty((len(paths), extractor.n_features_out_), np.float32)
    names: list[str] = []
    skipped = []
    for path, vector in each_image("features", paths, extractor.vector):
        if isinstance(vector, ImageError):
            skipped.append(str(vector))
        else:
            vectors[len(names)] = vector
            names.append(path.as_posix())
    return names, vectors[: len(names)], skipped


def _extract_on_ray(extractor: "SPPFeatures", paths: list[Path], out: Path) -> list[str]:
    """Writes a folder of Parquet files; why images could not be read."""
    from sppnet.cli.output import Bars
    from sppnet.engine.batch import run_on_ray
    from sppnet.engine.work import Extracting

    parameters = {**extractor.get_params(), "device": "auto"}
    if parameters["model"] is not None:
        parameters["model"] = str(parameters["model"])
    with Bars() as bars:
        return run_on_ray(
            Extracting(tuple(parameters.items())), paths, out, extractor.device, "features", bars
        )


def _described(extractor: "SPPFeatures") -> dict[str, Any]:
    """What decides the vectors, for their file. Folders, which may be private, stay out."""
    given = {"weights": extractor.weights, "model": extractor.model}
    named = {key: None if value is None else Path(value).name for key, value in given.items()}
    trunk = extractor.trunk_.name
    return {"trunk": trunk, **named, "levels": list(extractor.levels_), "scale_px": extractor.scale_px_}


def _levels(text: str | None) -> tuple[int, ...] | None:
    from sppnet.errors import ConfigError

    try:
        return None if text is None else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f'--levels must be integers such as 1,2,3,6; got "{text}"') from None
