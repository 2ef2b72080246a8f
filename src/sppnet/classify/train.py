"""From a folder of images to a model file."""

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sppnet import __version__
from sppnet.classify.classifier import Classifier, Testing
from sppnet.classify.config import TrainingConfig
from sppnet.classify.distributed import Workers
from sppnet.classify.evaluate import evaluate
from sppnet.classify.run_folder import RunFolder
from sppnet.classify.sgd import Trainer
from sppnet.classify.svm_head import train_svm
from sppnet.data.files import Omission, is_hidden
from sppnet.data.folder import ImageFolder, split_folder
from sppnet.data.image import ImageArray
from sppnet.data.loader import Damaged, ImageCache
from sppnet.destination import check_destination
from sppnet.errors import ConfigError, DataError
from sppnet.metrics.classification import ClassificationResult
from sppnet.nn.device import find_device
from sppnet.nn.network import SPPNet
from sppnet.nn.trunks import load_trunk
from sppnet.progress import NullProgress, Progress
from sppnet.run_lock import lock_run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """What a run left behind."""

    model: Path
    """The model with the best validation accuracy."""
    validation: ClassificationResult
    """Of that model, shown images the way it will be tested."""
    skipped: tuple[str, ...]
    """Why images to train on were left out."""
    report: Path | None = None
    """The page that tells of the run, if one was written."""
    images: int = 0
    """That were trained on."""
    omitted: tuple[Omission, ...] = ()
    """Images of the data set, to train or to validate on, that were left out before, by reason."""
    held_out: bool = True
    """Whether `validation` is of images that were not trained on."""


def train(
    data: str | Path,
    out: str | Path,
    config: TrainingConfig | None = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    cache: ImageCache | None = None,
) -> TrainingResult | None:
    """Train a classifier on a folder of class folders; see `split_folder` for what is validated on.

    out: the run folder (see `RunFolder`), of one run at a time. resume: go on with the one begun there.
    cache: decoded images, kept from one run on the same images to the next.
    Under torchrun every process calls this, and all but the first return None. A group that torchrun started
    again goes on where the one before it stood.
    """
    config, progress = config or TrainingConfig(), progress or NullProgress()
    folder = RunFolder(Path(out))
    check_destination(folder.root, "--out")
    train_images, val_images = split_folder(data, seed=config.seed)
    _check_classes(train_images)
    _check_beside(folder.root, train_images)
    with Workers() as workers, ExitStack() as opened:
        resume = resume or workers.starts > 0
        progress = progress if workers.leads else NullProgress()
        network = build_network(config, len(train_images.classes))
        if workers.leads:  # after the network, so that a trunk of a wrong name leaves no run behind
            opened.enter_context(lock_run(folder.root))
            folder.start(config, str(data), resume)
            if val_images is train_images:
                logger.warning(
                    "no class has two images, so none is held out: validation is on the images that were "
                    "trained on, and says little of others"
                )
        damaged: list[Damaged] = []
        if config.head == "svm":
            if workers.count > 1:
                raise ConfigError('the head "svm" trains in one process; start it without torchrun')
            _train_linear(network, train_images, config, folder, damaged, progress)
        else:
            trainer = Trainer(network, train_images, config, folder, workers, cache)
            damaged = trainer.damaged
            _train_layers(trainer, val_images, resume, progress)
        if not workers.leads:
            return None
        best = Classifier.load(folder.best, next(network.parameters()).device)
        result = evaluate(best, val_images, progress)
        skipped = tuple(item.reason for item in damaged)
        omitted = tuple(dict.fromkeys((*train_images.omitted, *val_images.omitted)))
        return TrainingResult(
            folder.best,
            result,
            skipped,
            images=len(train_images) - len(skipped),
            omitted=omitted,
            held_out=train_images is not val_images,
        )


def _check_classes(images: ImageFolder) -> None:
    if len(images.classes) < 2:
        raise DataError(
            f"{images.root} has images of one class alone, {images.classes[0]}; a classifier needs two "
            "classes or more: make a folder for each, ROOT/class/image.jpg"
        )


def _check_beside(out: Path, images: ImageFolder) -> None:
    """Raises ConfigError for a run folder that would be read as a class the next time."""
    root, place = images.root.resolve(), out.resolve()
    if place == root or not place.is_relative_to(root):
        return
    name = place.relative_to(root).parts[0]
    by_folders = any((root / label).is_dir() for label in images.classes)
    if by_folders and name not in images.classes and not is_hidden(name):
        raise ConfigError(
            f"--out {out} lies beside the class folders of {images.root}, where {name} would be a class "
            "the next time; choose a folder elsewhere"
        )


def build_network(config: TrainingConfig, num_classes: int) -> SPPNet:
    """The network a configuration describes, initialised from its seed, on its device."""
    torch.manual_seed(config.seed)
    if config.freeze_trunk and config.weights is None:
        raise ConfigError("a frozen trunk needs --weights: random features would never be trained")
    trunk = load_trunk(config.trunk, stride=config.stride, width=config.width, weights=config.weights)
    network = SPPNet(
        trunk,
        config.levels,
        num_classes,
        head=config.head,
        hidden=config.hidden,
        dropout=config.dropout,
        size=config.schedule_of_sizes().test_size if config.levels is None else None,
    )
    return network.to(find_device(config.device))


def _train_linear(
    network: SPPNet,
    images: ImageFolder,
    config: TrainingConfig,
    folder: RunFolder,
    damaged: list[Damaged],
    progress: Progress,
) -> None:
    cost = train_svm(network, images, config, damaged, progress)
    testing = Testing(config.view, config.test_scale_px, config.schedule_of_sizes().test_size)
    classifier = Classifier(network, images.classes, testing, _described(config, images, C=cost))
    classifier.save(folder.best)
    classifier.save(folder.last)


def _train_layers(trainer: Trainer, val_images: ImageFolder, resume: bool, progress: Progress) -> None:
    config, folder = trainer.config, trainer.folder
    size = config.schedule_of_sizes().test_size
    shown = Testing("crop", config.test_scale_px, size)
    full = config.full_scale_px(size)
    testing = Testing("crop" if config.levels is None else "full", config.test_scale_px, size, full)
    classes = trainer.train.classes

    def read(path: Path) -> ImageArray:
        return trainer.cache.read(path, config.test_scale_px)  # scaled already, so that scaling leaves it

    def validate() -> tuple[float, float]:
        classifier = Classifier(trainer.network, classes, shown)
        result = evaluate(classifier, val_images, progress, read=read, learning=True)
        return result.top1, result.top5

    def save(best: bool) -> None:
        described = _described(config, trainer.train, epoch=trainer.state.epoch)
        classifier = Classifier(trainer.network, classes, testing, described)
        for path in (folder.last, folder.best) if best else (folder.last,):
            classifier.save(path)

    if resume:
        trainer.resume()
    trainer.run(validate, save, progress)


def _described(config: TrainingConfig, images: ImageFolder, **more: Any) -> dict[str, Any]:
    """How a model was trained, for its header. No paths: files are shared, and folders have names in them."""
    weights = config.weights if config.weights in (None, "imagenet") else Path(str(config.weights)).name
    described = {**config.to_json(), "weights": weights, "images": len(images), **more}
    return {"config": described, "sppnet": __version__, "torch": torch.__version__}
