"""sppnet features"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sppnet.cli.destinations import check_file
from sppnet.cli.images import tell_skipped, work_on
from sppnet.cli.options import Device, ExecutorOption, FormerEngine, parse_integers
from sppnet.errors import ConfigError
from sppnet.nn.published_url import check_reachable

if TYPE_CHECKING:
    from sppnet.image_vectors import SPPFeatures, Vectors


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


# --- files of vectors: safetensors, or Parquet for tables ----------------------------------------


KIND = "vectors"
SUFFIXES = (".safetensors", ".parquet")


def check_suffix(path: Path, folder: bool = False) -> None:
    """Raises ConfigError for a file that cannot be written, MissingExtraError without pyarrow.

    folder: whether it is to be a folder of files, as --executor ray writes them.
    """
    if folder and path.suffix != ".parquet":
        raise ConfigError(
            f"--executor ray writes a folder of Parquet files, as vectors.parquet; got {path.name!r}"
        )
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"vectors are written to {' or '.join(SUFFIXES)}; got {path.name!r}")
    if path.suffix == ".parquet":
        from sppnet.engine.tables import import_pyarrow

        import_pyarrow()


def write_vectors(
    path: Path,
    images: Sequence[Path],
    vectors: "Mapping[Path, Vectors]",
    reasons: Mapping[Path, str],
    length: int,
    described: dict[str, Any],
) -> None:
    """Write the vector (length,) of each image, or the reason why there is none, in one step.

    described: how the vectors were made.
    safetensors: the tensor "vectors" of the images that could be read, and under "sppnet" in its metadata
    JSON with their "names" in their order.
    Parquet: a row for every image, as `engine.tables` has them, and the same JSON without names in the
    schema's metadata.
    """
    from sppnet.data.files import writable_name

    names = [writable_name(image) for image in images]
    if path.suffix == ".parquet":
        from sppnet.engine.tables import vectors_table, write_table

        rows, why = [vectors.get(image) for image in images], [reasons.get(image) for image in images]
        header = json.dumps({"kind": KIND, **described})
        write_table(path, vectors_table(names, rows, why, length, described=header))
        return
    import numpy as np
    import torch

    from sppnet.nn.model_file import save_model

    stacked = np.stack(list(vectors.values())) if vectors else np.empty((0, length), np.float32)
    read = [writable_name(image) for image in vectors]
    save_model(path, KIND, {**described, "names": read}, {"vectors": torch.from_numpy(stacked)})
