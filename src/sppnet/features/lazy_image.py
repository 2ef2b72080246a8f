"""An image as detection sees it: pixels and feature maps, each made when it is first asked for."""

from functools import cached_property
from pathlib import Path

import numpy as np

from sppnet.data.image import ImageArray, ImageSource, read_header, read_image
from sppnet.errors import ImageError
from sppnet.features.cache import MapCache
from sppnet.features.detector_extractor import AnyExtractor
from sppnet.features.maps import FeatureMaps


class LazyImage:
    """One image, by whatever `read_image` takes.

    cache: where maps of image files are kept; None keeps them in memory as long as this image.
    mirrored: the image's mirror image instead, left and right exchanged.
    """

    def __init__(
        self,
        source: ImageSource,
        extractor: AnyExtractor,
        cache: MapCache | None = None,
        *,
        mirrored: bool = False,
    ) -> None:
        self.path = Path(source) if isinstance(source, str | Path) else None
        self.mirrored = mirrored
        self._source, self._extractor, self._cache = source, extractor, cache

    @classmethod
    def from_maps(
        cls,
        maps: FeatureMaps,
        source: ImageSource,
        extractor: AnyExtractor,
        pixels: ImageArray | None = None,
    ) -> "LazyImage":
        """An image whose maps are there already, and its pixels if they are given."""
        image = cls(source, extractor)
        known = {"maps": maps, "size_hw": maps.size_hw} | ({} if pixels is None else {"pixels": pixels})
        vars(image).update(known)  # where cached properties look first
        return image

    @cached_property
    def pixels(self) -> ImageArray:
        """(h, w, 3) uint8 RGB; raises ImageError."""
        pixels = read_image(self._source)
        return np.ascontiguousarray(pixels[:, ::-1]) if self.mirrored else pixels

    @cached_property
    def size_hw(self) -> tuple[int, int]:
        """Upright; of a file, without decoding it."""
        if self.path is None:
            return self.pixels.shape[0], self.pixels.shape[1]
        return read_header(self.path).size_hw

    @cached_property
    def maps(self) -> FeatureMaps:
        """Convolved once, or read from the cache; raises ImageError."""
        if self._cache is None or self.path is None:
            return self._extractor(self.pixels)
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ImageError(f"{self.path} cannot be read: {error.strerror}") from error
        variant = "-mirrored" if self.mirrored else ""
        return self._cache.get(content, lambda: self._extractor(self.pixels), variant)
