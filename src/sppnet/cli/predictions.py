"""What a detector finds in many images: by either executor, as Parquet, CSV or JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sppnet.cli.destinations import check_file, check_folder, drawing_files, write_csv
from sppnet.cli.images import work_on
from sppnet.cli.options import Executor
from sppnet.errors import ConfigError

if TYPE_CHECKING:
    from sppnet.detect.detector import Detector
    from sppnet.detect.ensemble import Ensemble
    from sppnet.structures import Detections

    Found = dict[str, Detections]
    """By the name of the image, fit to be written."""

QUICK = 1
"""Of PNG's compression: a photograph is as large as at 6, the default, in less than half the time."""


def check_executor(
    executor: Executor,
    parquet: Path | None,
    drawings: Path | None,
    proposals: str | None = None,
    mirror: bool = False,
) -> None:
    """Before the work: ConfigError for what an executor cannot do, MissingExtraError without pyarrow."""
    from sppnet.engine.tables import import_pyarrow

    if executor == "ray" and not parquet:
        raise ConfigError("--executor ray writes a folder of Parquet files; name it with --parquet")
    if executor == "ray" and drawings:
        raise ConfigError("--executor ray draws nothing; leave out --out, or use --executor local")
    if executor == "ray" and proposals:
        raise ConfigError("--executor ray takes no --proposals; leave it out, or use --executor local")
    if executor == "ray" and mirror:
        raise ConfigError("--executor ray takes no --mirror; leave it out, or use --executor local")
    if parquet:
        import_pyarrow()


def check_places(
    csv_file: Path | None, drawings: Path | None, parquet: Path | None, inputs: Sequence[Path]
) -> None:
    """Raises ConfigError for a place where nothing can be written; before the work. inputs: what is read."""
    check_file(csv_file, "--csv", inputs)
    check_file(parquet, "--parquet", inputs)
    if csv_file is not None and parquet is not None and csv_file.absolute() == parquet.absolute():
        raise ConfigError(f"--csv and --parquet are both {csv_file}; name two files")
    check_folder(drawings, "--out")


def find_here(
    detector: "Detector | Ensemble",
    paths: Sequence[Path],
    min_score: float,
    out: Path | None,
    parquet: Path | None,
) -> "tuple[Found, list[str]]":
    """What is in each image, drawn and written on the way, and why some could not be read."""
    from sppnet.data.files import writable_name
    from sppnet.data.image import read_image
    from sppnet.engine.tables import detections_table, write_table

    drawings = drawing_files(paths, out) if out else {}

    def look(path: Path) -> "Detections":
        seen = detector(path, min_score=min_score)
        if out:
            seen.draw(read_image(path)).save(drawings[path], compress_level=QUICK)
        return seen

    found, reasons = work_on("detecting", paths, look)
    if parquet:
        names = [writable_name(path) for path in paths]
        table = detections_table(
            names, [found.get(path) for path in paths], [reasons.get(path) for path in paths]
        )
        write_table(parquet, table)
    return {writable_name(path): seen for path, seen in found.items()}, list(reasons.values())


def find_on_ray(
    models: list[Path],
    device: str | None,
    paths: Sequence[Path],
    min_score: float,
    parquet: Path,
    read_back: bool,
) -> "tuple[Found, list[str]]":
    """Writes a folder of Parquet files. What is in each image, if that is to be read back; and why not."""
    from sppnet.cli.output import Bars
    from sppnet.engine.batch import run_on_ray
    from sppnet.engine.tables import read_detections, read_shards
    from sppnet.engine.work import Detecting, load_detector

    work = Detecting(tuple(map(str, models)), min_score)
    classes = load_detector(
        work.models, "cpu"
    ).classes  # a damaged file is told before the work, not after it
    with Bars() as bars:
        skipped = run_on_ray(work, paths, parquet, device or "auto", "detecting", bars)
    tables = read_shards(parquet) if read_back else ()
    found = {name: each for table in tables for name, each in read_detections(table, classes).items()}
    return found, skipped


def write_found(path: Path, found: "Found") -> None:
    """CSV, a line an object; no probability where that is not known."""
    rows = (
        [image, name, f"{score:.6f}", "" if p != p else f"{p:.4f}", *(f"{side:.2f}" for side in box)]
        for image, each in found.items()
        for name, score, p, box in zip(
            each.names, each.scores, each.probabilities, each.boxes.tolist(), strict=True
        )
    )
    write_csv(path, ["image", "label", "score", "probability", "x0", "y0", "x1", "y1"], rows)


def print_found(found: "Found", skipped: list[str]) -> None:
    """JSON."""
    from sppnet.cli.output import print_json

    results = [{"image": image, **each.to_json()} for image, each in found.items()]
    print_json({"predictions": results, "skipped": skipped})
