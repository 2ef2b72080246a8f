"""Windows of the training photographs: how the head that proposes them learns, and what is proposed."""

from torch import Tensor

from sppnet.arrays import Floats
from sppnet.detect.config import DetectorConfig
from sppnet.detect.examples import TrainingPhotos
from sppnet.errors import ImageError
from sppnet.progress import Progress, counted
from sppnet.proposals.learned import WindowHead
from sppnet.proposals.lessons import WindowSample, draw_cells, draw_windows, find_components, train_head
from sppnet.proposals.proposers import LearnedWindows, make_proposer
from sppnet.proposals.windows import WindowConfig
from sppnet.threads import in_order


def convolve_photos(
    photos: TrainingPhotos, seed: int, progress: Progress
) -> tuple[list[Tensor], dict[str, str]]:
    """Some cells of the maps of every photograph, which fills the cache on the way.

    Second, by index, why photographs could not be read; the list is without those.
    """

    def draw(index: int) -> Tensor | ImageError:
        try:
            return draw_cells(photos.photo(index).maps, seed, index)
        except ImageError as error:
            return error

    cells, skipped = [], {}
    every = counted(in_order(draw, range(len(photos))), "convolving photographs", len(photos), progress)
    for index, drawn in enumerate(every):
        if isinstance(drawn, ImageError):
            skipped[str(index)] = str(drawn)
        else:
            cells.append(drawn)
    return cells, skipped


def learn_windows(
    photos: TrainingPhotos, cells: list[Tensor], config: WindowConfig, progress: Progress
) -> WindowHead:
    """The head of the learned windows; cells: of the photographs' maps."""
    components = find_components(cells, config.channels)

    def draw(index: int) -> WindowSample:
        return draw_windows(photos.photo(index).maps, photos.truth(index), components, config, index)

    samples = list(counted(in_order(draw, range(len(photos))), "drawing windows", len(photos), progress))
    return train_head(samples, components, config, progress)


def propose_windows(
    photos: TrainingPhotos, head: WindowHead | None, config: DetectorConfig, progress: Progress
) -> list[Floats]:
    """(n, 4) boxes of every photograph, the best first; head: of learned windows, if they are asked for."""
    most = config.most
    proposer = make_proposer(config.proposals, most) if head is None else LearnedWindows(head, most)

    def propose(index: int) -> Floats:
        return proposer(photos.photo(index)).boxes

    return list(counted(in_order(propose, range(len(photos))), "proposing windows", len(photos), progress))
