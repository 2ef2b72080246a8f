"""Detection: our detector beside torchvision's, from an image file to boxes.

The peers have random weights, and ours has where no model is given: time hardly depends on them. A
trained model finds objects, for which boxes are corrected, and ours with random weights finds next to none,
as is usual on photographs.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import torch

from sppnet.benchmark.detection_peers import PEERS, Find, check_peers, find_by_peer
from sppnet.benchmark.photographs import gather
from sppnet.benchmark.results import Row, row_of, time_interleaved
from sppnet.benchmark.roofline import PRODUCT, large_product, multiply_adds
from sppnet.benchmark.subprocess_runner import peak_bytes, run_in_subprocess
from sppnet.detect.components import DetectorComponents
from sppnet.detect.config import DetectorConfig
from sppnet.detect.detector import Detector
from sppnet.errors import ConfigError
from sppnet.geometry.grid import count_bins
from sppnet.heads.fc_layers import detection_head
from sppnet.heads.ridge import BoxRegressor
from sppnet.malloc import keep_memory
from sppnet.nn.trunks import load_trunk
from sppnet.progress import NullProgress, Progress
from sppnet.proposals.dense_windows import WindowConfig
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.svm.linear_svm import LinearSVM
from sppnet.threads import AT_ONCE, ordered_map

OURS, GEMM = "ours", "a large product"
CLASSES = 20


def run(
    model: Annotated[Path | None, "A detector; by default one with random weights."] = None,
    images: Annotated[
        Path | None, "A folder of photographs, with objects marked or not; drawn by default."
    ] = None,
    photographs: Annotated[int, "Number of photographs in the folder."] = 8,
    peers: Annotated[
        Sequence[str],
        "Detectors of torchvision, with commas between. By default four, plain and tuned.",
    ] = PEERS,
    peer_onnx: Annotated[Path | None, "The ONNX file of a detector like YOLOX, as one more peer."] = None,
    rounds: Annotated[int, "Timed repetitions of each side."] = 3,
    memory: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Row]:
    """Time one photograph, and a folder of them, of which ours has two at work at a time.

    model: a detector file. images: a folder of photographs, of which `photographs` are taken; by default
    scenes of 500×375 are drawn. peers: of `PEERS`; +tuned is with folded batch norms and channels last, and
    +onnx with convolutions in onnxruntime. memory: also run each side in a process of its own, over all.
    Raises ConfigError for another peer, ModelError and DataError for what cannot be used.
    """
    peers = [*peers, *([] if peer_onnx is None else [str(peer_onnx)])]
    check_peers(peers)
    if rounds < 1:
        raise ConfigError(f"rounds must be 1 or more; got {rounds}")
    progress = progress or NullProgress()
    with tempfile.TemporaryDirectory(prefix="sppnet-benchmark-") as folder:
        paths = gather(images, photographs, Path(folder), seed).paths
        finders = {name: find_by(name, model, seed) for name in (OURS, *peers)}
        cases = {"1 photograph": paths[:1]}
        if len(paths) > 1:
            cases[f"{len(paths)} photographs"] = paths
        progress.begin("timing", len(cases) + len(finders))
        rows = []
        for case, several in cases.items():
            peaks = None
            if memory and several is paths:
                peaks = {name: _hold(name, model, paths, seed, progress) for name in finders}
            rows += _rows(case, several, finders, rounds, seed, peaks)
            progress.advance(note=case)
        return rows


def _rows(
    case: str,
    paths: Sequence[Path],
    finders: dict[str, Find],
    rounds: int,
    seed: int,
    peaks: "dict[str, dict[str, int]] | None",
) -> list[Row]:
    calls: dict[str, Callable[[], object]] = {
        name: partial(_find_all, find, paths) for name, find in finders.items()
    }
    # Counted in one thread, the one that the counter watches.
    ours = finders[OURS]
    extractors = [ours.extractor] if isinstance(ours, Detector) else []
    floor = multiply_adds(lambda: [ours(path) for path in paths], extractors) / PRODUCT
    timings = time_interleaved(calls | {GEMM: large_product(seed)}, rounds)
    floor_s = floor * timings[GEMM].median_s
    peers = [name for name in finders if name != OURS]
    if peaks is None:
        return [row_of(case, peer, timings[OURS], timings[peer], floor_s) for peer in peers]
    own, grown = peaks[OURS], peaks[OURS]["bytes"] - peaks[OURS]["first_bytes"]
    note = f"{case}: our memory grew by {grown / 1e6:,.0f} MB after the first {AT_ONCE}"
    return [
        row_of(
            case, peer, timings[OURS], timings[peer], floor_s, note=note,
            ours_bytes=own["bytes"], peer_bytes=peaks[peer]["bytes"],
        )
        for peer in peers
    ]  # fmt: skip


def _find_all(find: Find, paths: Sequence[Path]) -> int:
    at_once = AT_ONCE if isinstance(find, Detector) else 0  # as `sppnet detect` does it
    return len(list(ordered_map(find, paths, at_once)))


def find_by(name: str, model: Path | None = None, seed: int = 0) -> Find:
    """What finds objects in a file: our detector, or a peer."""
    if name != OURS:
        return find_by_peer(name, seed)
    return random_detector(seed=seed) if model is None else Detector.load(model)


def random_detector(config: DetectorConfig | None = None, seed: int = 0) -> Detector:
    """A detector with random weights, whose SVMs are sure of nothing."""
    config = config or DetectorConfig()
    torch.manual_seed(seed)
    classes = tuple(f"class {number}" for number in range(CLASSES))
    trunk = load_trunk(config.trunk, stride=config.stride, width=config.width).eval()
    length = trunk.channels * count_bins(config.levels)
    head = None
    if config.finetune != "none":
        head = detection_head(length, config.hidden, CLASSES).eval()
    judged = length if config.svm_layer == "pool" else config.hidden
    svm = LinearSVM(torch.zeros(CLASSES, judged), torch.full((CLASSES,), -1.0), classes)
    regressor = BoxRegressor(torch.zeros(CLASSES, 4, length), torch.zeros(CLASSES, 4), classes)
    windows = ProposalHead(trunk.channels, WindowConfig()).eval()
    return Detector(DetectorComponents(classes, config, trunk, windows, head, svm, regressor))


# --- in a process of its own ---------------------------------------------------------------------


def _hold(
    name: str, model: Path | None, paths: Sequence[Path], seed: int, progress: Progress
) -> dict[str, int]:
    peaks = run_in_subprocess(__name__, name, str(model or ""), str(seed), *map(str, paths))
    progress.advance(note=f"memory of {name}")
    return peaks


def main(name: str, model: str, seed: str, *paths: str) -> None:
    """Print the most memory held after the first photographs and after all, in a process like a command's."""
    keep_memory()
    find = find_by(name, Path(model) if model else None, int(seed))
    _find_all(find, [Path(path) for path in paths[:AT_ONCE]])
    first = peak_bytes()
    _find_all(find, [Path(path) for path in paths[AT_ONCE:]])
    # The kernel counts pages in batches: a later peak may read a little lower.
    print(json.dumps({"first_bytes": first, "bytes": max(first, peak_bytes())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
