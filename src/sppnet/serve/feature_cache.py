"""Images already convolved: a few, for a short time, so that windows can be asked of them at once."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

from sppnet.features.maps import FeatureMaps
from sppnet.serve.limits import Limits


class FeatureCache:
    """Maps by the digest of the image file; what was used least recently goes first. For one thread."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = monotonic) -> None:
        self.limits, self.clock = limits, clock
        self._kept: OrderedDict[str, tuple[float, FeatureMaps]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        """Of all maps."""
        return sum(_size_of(maps) for _, maps in self._kept.values())

    def get(self, key: str) -> FeatureMaps | None:
        """The maps, if they are still there; they have been used just now then."""
        self._throw_out_old()
        if key not in self._kept:
            return None
        _, maps = self._kept[key]
        self.put(key, maps)
        return maps

    def put(self, key: str, maps: FeatureMaps) -> None:
        """Keep maps; others make room."""
        self._kept[key] = self.clock(), maps
        self._kept.move_to_end(key)
        self._throw_out_old()
        while len(self) > self.limits.kept or (self.size_bytes > self.limits.kept_bytes and len(self) > 1):
            self._kept.popitem(last=False)

    def _throw_out_old(self) -> None:
        oldest = self.clock() - self.limits.kept_seconds
        while self._kept and next(iter(self._kept.values()))[0] < oldest:
            self._kept.popitem(last=False)


def _size_of(maps: FeatureMaps) -> int:
    return sum(features.nbytes for features in maps.maps)
