"""The parts of work shared out: files, tables, what is asked and what is refused, without starting a Ray."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from typer.testing import CliRunner

from sppnet.cli.app import app
from sppnet.cli.features import check_suffix
from sppnet.cli.predictions import check_executor
from sppnet.engine.batch import TRIES, Block, _first_cause, share_out
from sppnet.engine.cluster import joined
from sppnet.engine.tables import (
    check_shards,
    count_done,
    detections_table,
    read_detections,
    read_shards,
    shards_of,
    unfinished,
    vectors_table,
    write_shard,
)
from sppnet.engine.work import Detecting, Extracting, attempt
from sppnet.errors import ConfigError, ImageError, MissingExtraError, SppnetError
from sppnet.structures import Detections

# --- parts ---------------------------------------------------------------------------------------


def part(first: int, count: int, reason: str | None = None) -> Any:
    nothing = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64), ("cat",))  # type: ignore[arg-type]
    found = [None if reason else nothing] * count
    return detections_table([f"{first + i}.jpg" for i in range(count)], found, [reason] * count, first)


def test_a_block_done_again_overwrites_its_part(tmp_path):
    for _ in range(2):
        write_shard(tmp_path, part(4, 3))
    write_shard(tmp_path, part(0, 4, "cannot be read"))
    assert [path.name for path in shards_of(tmp_path)] == [
        "images-000000000-000000003.parquet",
        "images-000000004-000000006.parquet",
    ]
    assert count_done(tmp_path) == 7
    assert check_shards(tmp_path, 7) == ["cannot be read"] * 4


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        pytest.param([(0, 4), (6, 2)], "of 8 images 2 are missing from the result and 0 are", id="lost"),
        pytest.param([(0, 5), (4, 4)], "0 are missing from the result and 1 are there more", id="doubled"),
        pytest.param([], "8 are missing", id="nothing"),
    ],
)
def test_images_are_counted(tmp_path, blocks, message):
    for first, count in blocks:
        write_shard(tmp_path, part(first, count))
    with pytest.raises(SppnetError, match=message):
        check_shards(tmp_path, 8)


def test_a_result_takes_its_name_at_the_end(tmp_path):
    with unfinished(tmp_path / "deep" / "out") as folder:
        write_shard(folder, part(0, 1))
        assert not (tmp_path / "deep" / "out").exists()
    assert count_done(tmp_path / "deep" / "out") == 1
    with (
        pytest.raises(ConfigError, match="out is there already; remove it"),
        unfinished(tmp_path / "deep" / "out"),
    ):
        pass


def test_after_an_error_nothing_is_left(tmp_path):
    with pytest.raises(KeyboardInterrupt), unfinished(tmp_path / "out"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_detections_are_written_and_read():
    boxes = np.array([[0, 0, 5, 5], [1, 2, 3, 4.5]], np.float32)
    found = Detections(boxes, np.array([2, 1.5]), np.array([1, 0]), ("cat", "dog"))  # type: ignore[arg-type]
    table = detections_table(["a", "b"], [found, None], [None, "damaged"], first=3)
    assert table["number"].to_pylist() == [3, 4]
    assert table["labels"].to_pylist() == [["dog", "cat"], None]
    back = read_detections(table, ("cat", "dog"))
    assert list(back) == ["a"]
    assert back["a"].names == found.names
    np.testing.assert_array_equal(back["a"].boxes, found.boxes)
    np.testing.assert_array_equal(back["a"].scores, found.scores)


def test_vectors_are_written(tmp_path):
    vectors = [np.arange(3, dtype=np.float32), None]
    table = vectors_table(["a", "b"], vectors, [None, "damaged"], 3, 3, described='{"kind": "vectors"}')
    write_shard(tmp_path, table)
    (table,) = read_shards(tmp_path)
    assert table.schema.metadata[b"sppnet"] == b'{"kind": "vectors"}'
    assert table["vector"].to_pylist() == [[0, 1, 2], None]


# --- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "processes", "blocks", "most"),
    [
        pytest.param(1, 8, 1, 1, id="one image"),
        pytest.param(30, 2, 8, 4, id="four blocks a process"),
        pytest.param(6400, 2, 100, 64, id="64 images a block, at most"),
        pytest.param(6401, 2, 101, 64, id="and not one more"),
    ],
)
def test_images_are_shared_out(images, processes, blocks, most):
    rows = share_out([Path(f"{number}.png") for number in range(images)], processes)
    assert len(rows) == blocks
    assert [name for row in rows for name in row["images"]] == [f"{number}.png" for number in range(images)]
    assert [row["first"] for row in rows] == [int(Path(row["images"][0]).stem) for row in rows]
    assert max(len(row["images"]) for row in rows) == most
    assert rows[-1]["paths"][-1] == os.fsencode(Path.cwd() / f"{images - 1}.png")


def test_reasons_name_images_as_they_were_named():
    def find(path: str) -> int:
        if path.endswith("bad"):
            raise ImageError(f"{path} is damaged")
        return 1

    assert attempt(find, ["/all/good", "/all/bad"], ["good", "bad"]) == ([1, None], [None, "bad is damaged"])


def test_workers_find_files_from_their_own_folders(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Detecting(("a.model",), 0).on("cpu").models == (str(tmp_path / "a.model"),)
    given = (("weights", "imagenet"), ("model", None), ("trunk", "zf5"))
    assert Extracting(given).on("auto") == Extracting(given, "auto")
    assert dict(Extracting((("weights", "w.pth"),)).on("cpu").parameters) == {
        "weights": str(tmp_path / "w.pth")
    }


@pytest.mark.parametrize(
    ("parquet", "drawings", "message"),
    [
        pytest.param(None, None, "name it with --parquet", id="nowhere to write"),
        pytest.param(Path("a"), Path("b"), "leave out --out", id="drawings"),
    ],
)
def test_what_ray_cannot_do_is_told_before_the_work(parquet, drawings, message):
    with pytest.raises(ConfigError, match=message):
        check_executor("ray", parquet, drawings)


def test_ray_looks_at_no_mirror_images():
    with pytest.raises(ConfigError, match="takes no --mirror; leave it out"):
        check_executor("ray", Path("a"), None, mirror=True)


def test_vectors_of_ray_are_parquet():
    with pytest.raises(
        ConfigError, match=r"a folder of Parquet files, as vectors.parquet; got 'v.safetensors'"
    ):
        check_suffix(Path("v.safetensors"), folder=True)


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sppnet\[ray\]'"), joined():
        pass


@pytest.mark.parametrize(
    ("address", "message"),
    [
        pytest.param(
            "127.0.0.1:1", "no Ray at RAY_ADDRESS=127.0.0.1:1: .*refused; start one there", id="nobody"
        ),
        pytest.param("127.0.0.1:99999", "no Ray at RAY_ADDRESS=127.0.0.1:99999", id="no port"),
    ],
)
def test_where_no_ray_is_one_is_asked_for_at_once(monkeypatch, address, message):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=message), joined():
        pass
    assert "RAY_DATA_LOG_LEVEL" not in os.environ


def test_a_block_that_kills_every_worker_ends_the_work(tmp_path):
    def die(paths, names, first):
        raise KeyboardInterrupt  # as far as the count goes, the worker is gone

    block = Block(die, str(tmp_path))  # type: ignore[arg-type]
    rows = pyarrow.table({"first": [5], "images": [["a", "b"]], "paths": [["/a", "/b"]]})
    for _ in range(TRIES):
        with pytest.raises(KeyboardInterrupt):
            block(rows)
    with pytest.raises(SppnetError, match="4 workers died on the images a to b"):
        block(rows)


def test_a_block_that_is_done_is_written_and_no_longer_counted(tmp_path):
    block = Block(lambda paths, names, first: part(first, len(names)), str(tmp_path))  # type: ignore[arg-type]
    rows = pyarrow.table({"first": [5], "images": [["a", "b"]], "paths": [["/a", "/b"]]})
    assert block(rows).to_pydict() == {"first": [5]}
    assert [path.name for path in tmp_path.iterdir()] == ["images-000000005-000000006.parquet"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("ray::x (pid=1)\n  File y\nsppnet.errors.ModelError: none\n\nmore", "none", id="raised"),
        pytest.param("worker died\nfor good", "for good", id="no traceback"),
        pytest.param("", "RuntimeError", id="no text"),
    ],
)
def test_the_first_cause_is_told(text, told):
    assert _first_cause(RuntimeError(text)) == told


@pytest.mark.parametrize(
    "words", ["detect predict photos --model m.safetensors", "features photos --out v.parquet"]
)
def test_the_option_of_before_is_refused_with_its_new_name(words):
    ended = CliRunner().invoke(app, [*words.split(), "--engine", "ray"])
    assert isinstance(ended.exception, ConfigError)
    assert "--engine is called --executor here" in str(ended.exception)
    assert "write --executor ray" in str(ended.exception)
    shown = CliRunner().invoke(app, [*words.split()[: 2 if words[0] == "d" else 1], "--help"]).output
    assert "--executor" in shown
    assert "--engine" not in shown
