"""Windows of the training photographs: how the head that proposes them learns, and what is proposed."""

from torch import Tensor

from sppnet.arrays import Floats
from sppnet.detect.config import DetectorConfig
from sppnet.detect.label_assignment import TrainingImages
from sppnet.errors import ImageError
from sppnet.metrics.recall import recall_curve
from sppnet.progress import Progress, track
from sppnet.proposals.dense_windows import WindowConfig
from sppnet.proposals.head_training import (
    WindowSample,
    draw_cells,
    draw_windows,
    find_components,
    train_head,
    windows_per_image,
)
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.proposals.proposers import TrunkProposer, learned_proposer, make_proposer
from sppnet.threads import ordered_attempts, ordered_map

MIN_OWN_RECALL = 0.95
"""Share of the objects that one of a detector's own boxes overlaps by half: 0.98 and 0.99 on raccoons and the
classes of VOC, 0.93 on blood cells, 0.58 on faces with masks."""


def convolve_images(
    photos: TrainingImages, seed: int, progress: Progress
) -> tuple[list[Tensor], dict[str, str]]:
    """Some cells of the maps of every photograph, which fills the cache on the way.

    Second, by index, why photographs could not be read; the list is without those.
    """

    def draw(index: int) -> Tensor:
        return draw_cells(photos.photo(index).maps, seed, index, len(photos))

    cells, skipped = [], {}
    drawings = ordered_attempts(draw, range(len(photos)))
    every = track(drawings, "convolving photographs", len(photos), progress)
    for index, drawn in enumerate(every):
        if isinstance(drawn, ImageError):
            skipped[str(index)] = str(drawn)
        else:
            cells.append(drawn)
    return cells, skipped


def learn_windows(
    photos: TrainingImages, cells: list[Tensor], config: WindowConfig, progress: Progress
) -> ProposalHead:
    """The head of the learned windows; cells: of the photographs' maps."""
    components = find_components(cells, config.channels)
    drawing = windows_per_image(config, len(photos))

    def draw(index: int) -> WindowSample:
        return draw_windows(photos.photo(index).maps, photos.truth(index), components, drawing, index)

    samples = list(track(ordered_map(draw, range(len(photos))), "drawing windows", len(photos), progress))
    return train_head(samples, components, config, progress)


def choose_proposals(photos: TrainingImages, config: DetectorConfig, progress: Progress) -> str:
    """What "auto" becomes with a detector's network: its own boxes, or those and learned windows.

    Own boxes suffice where they find MIN_OWN_RECALL of the objects; cells and small faces are nothing that a
    network of street scenes looks for.
    """
    own, count = TrunkProposer(config.max_proposals), len(photos.images)
    boxes = ordered_map(lambda index: own(photos.photo(index)).boxes, range(count))
    found = list(track(boxes, "what the network sees", count, progress))
    curve = recall_curve(found, photos.images.truths, (config.max_proposals,), (0.5,))
    return "trunk" if curve.at(config.max_proposals, 0.5) >= MIN_OWN_RECALL else "joined"


def propose_windows(
    photos: TrainingImages, head: ProposalHead | None, config: DetectorConfig, progress: Progress
) -> list[Floats]:
    """(n, 4) boxes of every photograph, the best first; head: of learned windows, if they are asked for.

    Mirror images have the mirrored boxes of their photographs.
    """
    max_proposals = config.max_proposals
    proposer = (
        make_proposer(config.proposals, max_proposals)
        if head is None
        else learned_proposer(config.proposals, head, max_proposals)
    )

    def propose(index: int) -> Floats:
        return proposer(photos.photo(index)).boxes

    count = len(photos.images)
    found = list(track(ordered_map(propose, range(count)), "proposing windows", count, progress))
    return found + [photos.mirror(index, boxes) for index, boxes in enumerate(found) if photos.mirrored]
