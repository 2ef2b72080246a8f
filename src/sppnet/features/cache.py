"""Feature maps on disk: convolved once, read as often as a training asks for them.

An entry is one safetensors file, named after the image's bytes and the recipe of the maps. It may
be deleted at any moment; one that cannot be read, or whose checksum is wrong, is made again. The
folder has a size it does not exceed: entries of other recipes make room, oldest first, and when
those are gone new maps are not kept. (Throwing out one's own entries would empty the cache on every
pass over a data set that is larger than it.)
"""

import hashlib
import json
import logging
import os
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sppnet.errors import ConfigError
from sppnet.features.detector_extractor import AnyExtractor
from sppnet.features.head_boxes import HeadBoxes
from sppnet.features.maps import FeatureMaps, TapMaps
from sppnet.geometry.grid import CellGrid
from sppnet.jit import private_folder
from sppnet.nn.model_file import write_file

logger = logging.getLogger(__name__)

MAX_BYTES = 16 << 30
"""Maps of mobilenet_v2:18 at stride 16 and one scale take 1.6 MB a photograph, at five scales 11 MB."""

FORMAT = 3


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/sppnet/maps, or ~/.cache/sppnet/maps; among temporary files where nobody is at home."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # HOME is not set, and the system does not know the user
        base = Path(private_folder())
    return base / "sppnet" / "maps"


def recipe_of(extractor: AnyExtractor) -> str:
    """What, with an image's bytes, decides its maps: the trunk with its weights, the scales, the engine."""
    digest, trunk = hashlib.sha256(), extractor.trunk
    described: dict[str, Any] = {
        "format": FORMAT,
        "trunk": trunk.spec,
        "scales": extractor.scales,
        "mean": trunk.mean,
        "std": trunk.std,
    }
    if extractor.engine_name != "torch":
        described["engine"] = extractor.engine_name
    digest.update(json.dumps(described, sort_keys=True).encode())
    for name, tensor in sorted(trunk.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class MapCache:
    """The entries of one recipe in a folder; for any thread."""

    def __init__(self, recipe: str, folder: Path | None = None, max_bytes: int = MAX_BYTES) -> None:
        if max_bytes < 0:
            raise ConfigError(f"the cache's size must be 0 bytes or more; got {max_bytes}")
        self.root = folder or cache_folder()
        self.folder = self.root / recipe
        self.max_bytes = max_bytes
        self.used = sum(map(_size_of, self.root.glob("*/*.safetensors")))
        self._lock = threading.Lock()

    def get(self, content: bytes, make: Callable[[], FeatureMaps], variant: str = "") -> FeatureMaps:
        """The maps of the image file of this content, made if they are not there.

        variant: of the image, such as its mirror image, which has an entry of its own.
        """
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:32]}{variant}.safetensors"
        try:
            return _read(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s cannot be read and is made again: %s", path, error)
        maps = make()
        self._keep(path, maps)
        return maps

    def _keep(self, path: Path, maps: FeatureMaps) -> None:
        content = _encoded(maps)
        try:
            with self._lock:
                before = _size_of(path)
                if self._has_room(len(content) - before):
                    write_file(path, content, sync=False)  # what a power cut damages is made again
                    self.used += len(content) - before
        except OSError as error:  # a cache that cannot be written is only slower
            logger.warning("feature maps are not kept: %s", error)
            self.max_bytes = 0

    def _has_room(self, size: int) -> bool:
        if self.used + size <= self.max_bytes:
            return True
        if size > self.max_bytes:
            return False
        others = [path for path in self.root.glob("*/*.safetensors") if path.parent != self.folder]
        for path in sorted(others, key=lambda path: (path.stat().st_mtime, path)):
            size_before = _size_of(path)
            path.unlink(missing_ok=True)
            self.used -= size_before
            if self.used + size <= self.max_bytes:
                return True
        return False


def _size_of(path: Path) -> int:
    """In bytes; 0 if there is no such file, any more or yet."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _encoded(maps: FeatureMaps) -> bytes:
    described: dict[str, Any] = {
        "size_hw": maps.size_hw,
        "sizes_hw": maps.sizes_hw,
        "grids": [[tap.grid.stride, tap.grid.center0, tap.grid.receptive_field] for tap in maps.taps],
    }
    if maps.head is not None:
        described["head"] = True
    tensors = [tensor.cpu().contiguous() for tap in maps.taps for tensor in tap.maps]
    if maps.head is not None:
        tensors += [torch.from_numpy(maps.head.boxes), torch.from_numpy(maps.head.vectors).half()]
    described["crc32"] = _checksum(described, tensors)
    named = {str(index): tensor for index, tensor in enumerate(tensors)}
    return save(named, {"maps": json.dumps(described)})


def _read(path: Path) -> FeatureMaps:
    with safe_open(path, "pt") as file:
        described: dict[str, Any] = json.loads((file.metadata() or {})["maps"])
        scales, grids = len(described["sizes_hw"]), described["grids"]
        count = scales * len(grids) + 2 * bool(described.get("head"))
        tensors = tuple(file.get_tensor(str(index)) for index in range(count))
    if described.pop("crc32") != _checksum(described, tensors):
        raise ValueError("its checksum is wrong")
    height, width = described["size_hw"]
    sizes = tuple((int(h), int(w)) for h, w in described["sizes_hw"])
    taps = []
    for index, (stride, center0, receptive_field) in enumerate(grids):
        grid = CellGrid(stride=stride, center0=center0, receptive_field=receptive_field)
        taps.append(TapMaps(tensors[index * scales : (index + 1) * scales], grid))
    head = HeadBoxes(tensors[-2].numpy(), tensors[-1].float().numpy()) if described.get("head") else None
    return FeatureMaps((height, width), sizes, tuple(taps), head)


def _checksum(described: Mapping[str, Any], tensors: Sequence[Tensor]) -> int:
    """Of an entry's content: a bit that flipped in a number would otherwise be a feature."""
    checksum = zlib.crc32(json.dumps(described).encode())
    for tensor in tensors:
        checksum = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, checksum)
    return checksum
