"""Feature maps on disk: the same ones back, whatever happened to the files, within the size allowed."""

import hashlib
import json
import logging
import os
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

from sppnet.errors import ConfigError, ImageError
from sppnet.features.cache import MapCache, cache_folder, recipe_of
from sppnet.features.extractor import FeatureExtractor
from sppnet.features.lazy_image import LazyImage
from sppnet.features.maps import FeatureMaps
from sppnet.geometry.grid import CellGrid
from sppnet.nn.trunks import load_trunk

GRID = CellGrid(stride=16, center0=-0.5, receptive_field=77)


def make_maps(seed=0, scales=2, side=8):
    torch.manual_seed(seed)
    sizes = tuple((96 + 32 * i, 100) for i in range(scales))
    return FeatureMaps.of_one_tap(
        (50, 60), sizes, tuple(torch.randn(3, side + i, side).half() for i in range(scales)), GRID
    )


def assert_same(found, expected):
    assert (found.size_hw, found.sizes_hw, found.grid) == (expected.size_hw, expected.sizes_hw, expected.grid)
    assert len(found.maps) == len(expected.maps)
    for one, other in zip(found.maps, expected.maps, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def write_entry(path, described, *maps):
    """An entry whose checksum is right."""
    numbers = b"".join(one.numpy().tobytes() for one in maps)
    text = json.dumps({**described, "crc32": zlib.crc32(json.dumps(described).encode() + numbers)})
    save_file({str(i): one for i, one in enumerate(maps)}, path, {"maps": text})


def flip(path, place):
    """The lowest bit of a byte."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


ONE = torch.zeros(1, 1, 1)


class Made:
    """Makes maps, and counts how often it was asked."""

    def __init__(self, maps):
        self.maps, self.times = maps, 0

    def __call__(self):
        self.times += 1
        return self.maps


def entries(folder):
    return sorted(folder.glob("*/*.safetensors"))


def bytes_in(folder):
    return sum(path.stat().st_size for path in entries(folder))


def test_the_same_maps_come_back(tmp_path):
    made = Made(make_maps())
    first = MapCache("r", tmp_path).get(b"image", made)
    again = MapCache("r", tmp_path).get(b"image", made)
    assert made.times == 1
    assert_same(first, made.maps)
    assert_same(again, made.maps)
    assert again.maps[0].dtype == torch.float16


def test_entries_are_named_by_content_and_recipe(tmp_path):
    made = Made(make_maps())
    for recipe, content in (("r", b"image"), ("r", b"another"), ("q", b"image")):
        MapCache(recipe, tmp_path).get(content, made)
    assert made.times == 3
    assert len(entries(tmp_path)) == 3
    digest = hashlib.sha256(b"image").hexdigest()[:32]
    assert (tmp_path / "r" / f"{digest}.safetensors").is_file()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1]), id="a byte short"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), id="half"),
        pytest.param(lambda path: path.write_bytes(b"not a tensor" * 9), id="something else"),
        pytest.param(lambda path: save_file({"0": torch.zeros(2)}, path), id="foreign, without a header"),
        pytest.param(lambda path: save_file({}, path, {"maps": "{"}), id="header that is no JSON"),
        pytest.param(lambda path: save_file({}, path, {"maps": "[]"}), id="header of another kind"),
        pytest.param(lambda path: save_file({}, path, {"maps": "{}"}), id="header without sizes"),
        pytest.param(
            lambda path: write_entry(path, {"size_hw": [1, 1], "sizes_hw": [[9, 9]], "grid": [1, 1, 1]}),
            id="maps missing",
        ),
        pytest.param(
            lambda path: write_entry(path, {"size_hw": [1, 1], "sizes_hw": [[9, 9]], "grid": [0, 0, 0]}, ONE),
            id="a grid that cannot be",
        ),
        pytest.param(
            lambda path: write_entry(path, {"size_hw": [1, 1], "sizes_hw": [[9, 0]], "grid": [1, 1, 1]}, ONE),
            id="an image without width",
        ),
        pytest.param(lambda path: flip(path, -1), id="a bit in a number"),
        pytest.param(lambda path: flip(path, path.read_bytes().index(b"100]")), id="a bit in a size"),
    ],
)
def test_a_damaged_entry_is_made_again(tmp_path, caplog, damage):
    made = Made(make_maps())
    cache = MapCache("r", tmp_path)
    cache.get(b"image", made)
    (path,) = entries(tmp_path)
    whole = path.read_bytes()
    damage(path)
    with caplog.at_level(logging.WARNING):
        assert_same(cache.get(b"image", made), made.maps)
    assert made.times == 2
    assert path.name in caplog.text
    assert path.read_bytes() == whole
    cache.get(b"image", made)
    assert made.times == 2


def test_entries_may_be_deleted_at_any_time(tmp_path):
    made = Made(make_maps())
    cache = MapCache("r", tmp_path)
    cache.get(b"image", made)
    entries(tmp_path)[0].unlink()
    assert_same(cache.get(b"image", made), made.maps)
    assert made.times == 2


# --- room ----------------------------------------------------------------------------------------

ENTRY = 1_000
"""Entries of `make_maps(scales=1)` take a little more than half of this."""


def fill(cache, names, made=None):
    made = made or Made(make_maps(scales=1))
    for name in names:
        cache.get(name.encode(), made)
    return made


def test_one_entry_fits_and_two_do_not(tmp_path):
    fill(MapCache("r", tmp_path), "a")
    assert ENTRY / 2 < bytes_in(tmp_path) < ENTRY


def test_the_cache_stays_within_its_size(tmp_path):
    cache = MapCache("r", tmp_path, max_bytes=3 * ENTRY)
    made = fill(cache, "abcdefgh")
    assert bytes_in(tmp_path) <= 3 * ENTRY
    kept = len(entries(tmp_path))
    assert kept >= 3
    # The first are kept, and so still there on the second pass.
    fill(cache, "abcdefgh", made)
    assert made.times == 8 + (8 - kept)


def test_other_recipes_make_room_oldest_first(tmp_path):
    old = MapCache("old", tmp_path)
    fill(old, "abc")
    for age, name in enumerate("bca"):  # b is the oldest
        path = old.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"
        os.utime(path, (1_000 + age, 1_000 + age))
    size = bytes_in(tmp_path) // 3
    cache = MapCache("new", tmp_path, max_bytes=3 * size + size // 2)
    fill(cache, "x")
    left = {path.stem for path in old.folder.glob("*.safetensors")}
    assert left == {hashlib.sha256(name.encode()).hexdigest()[:32] for name in "ca"}
    fill(cache, "yzuv")
    assert not list(old.folder.glob("*.safetensors"))
    assert len(list(cache.folder.glob("*.safetensors"))) == 3
    assert cache.used == bytes_in(tmp_path)


def test_maps_larger_than_the_cache_drive_nobody_out(tmp_path):
    fill(MapCache("old", tmp_path), "abc")
    made = fill(MapCache("new", tmp_path, max_bytes=10), "xx")
    assert made.times == 2
    assert len(entries(tmp_path)) == 3


def test_an_entry_made_again_counts_once(tmp_path):
    cache = MapCache("r", tmp_path)
    fill(cache, "a")
    entries(tmp_path)[0].write_bytes(b"x" * bytes_in(tmp_path))
    fill(cache, "a")
    assert cache.used == bytes_in(tmp_path)


def test_an_entry_made_again_finds_its_own_room(tmp_path):
    cache = MapCache("r", tmp_path)
    fill(cache, "a")
    cache.max_bytes = bytes_in(tmp_path)
    entries(tmp_path)[0].write_bytes(b"x" * bytes_in(tmp_path))
    made = fill(cache, "aa")
    assert made.times == 1


def test_a_size_below_zero_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="0 bytes or more; got -1"):
        MapCache("r", tmp_path, max_bytes=-1)


def test_a_folder_that_cannot_be_written_only_warns(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache = MapCache("r", blocked)
    made = Made(make_maps())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert_same(cache.get(b"image", made), made.maps)
    assert made.times == 3
    assert caplog.text.count("feature maps are not kept") == 1


def test_a_full_disk_only_warns_and_deletes_nothing(tmp_path, caplog, monkeypatch):
    def refuse(path, content, sync=True):
        raise OSError(28, "No space left on device")

    fill(MapCache("old", tmp_path), "abc")
    monkeypatch.setattr("sppnet.features.cache.write_file", refuse)
    cache = MapCache("new", tmp_path)
    with caplog.at_level(logging.WARNING):
        made = fill(cache, "xyz")
    assert made.times == 3
    assert caplog.text.count("No space left on device") == 1
    assert len(entries(tmp_path)) == 3


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        pytest.param("/somewhere", "/somewhere/sppnet/maps", id="where XDG says"),
        pytest.param("", "{home}/.cache/sppnet/maps", id="in the home folder"),
    ],
)
def test_the_folder_is_the_users(monkeypatch, tmp_path, variable, expected):
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(cache_folder()) == expected.format(home=tmp_path)


# --- recipes -------------------------------------------------------------------------------------


def test_a_recipe_tells_trunk_weights_and_scales():
    torch.manual_seed(0)
    trunk = load_trunk("squeezenet1_1")
    recipe = recipe_of(FeatureExtractor(trunk, (96,)))
    same = load_trunk("squeezenet1_1", weights=trunk.body.state_dict())
    assert recipe_of(FeatureExtractor(same, (96,))) == recipe
    others = [
        recipe_of(FeatureExtractor(trunk, (96, 128))),
        recipe_of(
            FeatureExtractor(load_trunk("squeezenet1_1", stride=8, weights=trunk.body.state_dict()), (96,))
        ),
        recipe_of(FeatureExtractor(load_trunk("squeezenet1_1"), (96,))),
    ]
    with torch.no_grad():
        next(iter(same.parameters())).view(-1)[0] += 1e-6
    others.append(recipe_of(FeatureExtractor(same, (96,))))
    same.std = (1.0, 1.0, 1.0)
    others.append(recipe_of(FeatureExtractor(same, (96,))))
    assert len({recipe, *others}) == 6


# --- photographs ---------------------------------------------------------------------------------


@pytest.fixture
def photograph(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_photo_is_convolved_once(tmp_path, photograph, monkeypatch):
    trunk = load_trunk("squeezenet1_1").eval()
    extractor = FeatureExtractor(trunk, (64,))
    cache = MapCache(recipe_of(extractor), tmp_path / "cache")
    first = LazyImage(photograph, extractor, cache)
    assert first.maps is first.maps
    moved = photograph.rename(tmp_path / "moved.png")
    monkeypatch.setattr(FeatureExtractor, "__call__", None)  # never asked again, and the file never decoded
    monkeypatch.setattr("sppnet.features.lazy_image.read_image", None)
    again = LazyImage(moved, extractor, cache)
    assert_same(again.maps, first.maps)
    assert again.size_hw == (40, 60)


def test_photos_that_are_no_files_need_no_cache(tmp_path):
    pixels = np.zeros((40, 60, 3), np.uint8)
    photo = LazyImage(pixels, FeatureExtractor(load_trunk("squeezenet1_1"), (64,)), MapCache("r", tmp_path))
    assert photo.size_hw == photo.maps.size_hw == (40, 60)
    assert entries(tmp_path) == []


def test_a_damaged_photo_is_named_and_not_kept(tmp_path, photograph):
    photograph.write_bytes(photograph.read_bytes()[:200])
    cache = MapCache("r", tmp_path / "cache")
    extractor = FeatureExtractor(load_trunk("squeezenet1_1"), (64,))
    with pytest.raises(ImageError, match=r"photo\.png"):
        _ = LazyImage(photograph, extractor, cache).maps
    with pytest.raises(ImageError, match=r"nowhere\.png cannot be read"):
        _ = LazyImage(tmp_path / "nowhere.png", extractor, cache).maps
    assert entries(tmp_path / "cache") == []


def test_entries_hold_half_precision(tmp_path):
    made = Made(make_maps(scales=1, side=64))
    MapCache("r", tmp_path).get(b"image", made)
    assert bytes_in(tmp_path) < 3 * 64 * 64 * 2 + 500
    assert bytes_in(tmp_path) >= len(save({"0": made.maps.maps[0]}))
