"""Windows of the training photographs: how the head that proposes them learns, and what is proposed."""

from torch import Tensor

from sppnet.arrays import Floats
from sppnet.detect.config import DetectorConfig
from sppnet.detect.label_assignment import TrainingImages
from sppnet.errors import ImageError
from sppnet.progress import Progress, track
from sppnet.proposals.dense_windows import WindowConfig
from sppnet.proposals.head_training import WindowSample, draw_cells, draw_windows, find_components, train_head
from sppnet.proposals.proposal_head import ProposalHead
from sppnet.proposals.proposers import HeadProposer, make_proposer
from sppnet.threads import ordered_attempts, ordered_map


def convolve_images(
    photos: TrainingImages, seed: int, progress: Progress
) -> tuple[list[Tensor], dict[str, str]]:
    """Some cells of the maps of every photograph, which fills the cache on the way.

    Second, by index, why photographs could not be read; the list is without those.
    """

    def draw(index: int) -> Tensor:
        return draw_cells(photos.photo(index).maps, seed, index)

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

    def draw(index: int) -> WindowSample:
        return draw_windows(photos.photo(index).maps, photos.truth(index), components, config, index)

    samples = list(track(ordered_map(draw, range(len(photos))), "drawing windows", len(photos), progress))
    return train_head(samples, components, config, progress)


def propose_windows(
    photos: TrainingImages, head: ProposalHead | None, config: DetectorConfig, progress: Progress
) -> list[Floats]:
    """(n, 4) boxes of every photograph, the best first; head: of learned windows, if they are asked for.

    Mirror images have the mirrored boxes of their photographs.
    """
    max_proposals = config.max_proposals
    proposer = (
        make_proposer(config.proposals, max_proposals) if head is None else HeadProposer(head, max_proposals)
    )

    def propose(index: int) -> Floats:
        return proposer(photos.photo(index)).boxes

    count = len(photos.images)
    found = list(track(ordered_map(propose, range(count)), "proposing windows", count, progress))
    return found + [photos.mirror(index, boxes) for index, boxes in enumerate(found) if photos.mirrored]
