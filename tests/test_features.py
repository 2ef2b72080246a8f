"""SPPFeatures as scikit-learn uses it, and `sppnet features` from outside."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from models import small_classifier
from sppnet import Classifier, SpatialPyramidPooling, SPPFeatures, SPPNet, pyramid_pool, read_image
from sppnet.classify.classifier import Testing
from sppnet.cli.app import main
from sppnet.data.transforms import resize_shorter, to_tensor
from sppnet.errors import ConfigError, ImageError, MissingExtraError, ModelError
from sppnet.nn.model_file import load_model
from sppnet.nn.trunks import load_trunk

COLOURS = {"red": (200, 60, 60), "blue": (60, 60, 200)}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A classifier nobody trained: its trunk is as good as any to make vectors with."""
    torch.manual_seed(0)
    trunk = load_trunk("zf5", width=0.0625)
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    Classifier(SPPNet(trunk, (1, 2), 2, hidden=8), ("a", "b"), Testing("full", 64, 64)).save(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """Red and blue noise, every image of a shape of its own."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(12):
        name, colour = list(COLOURS.items())[number % 2]
        height, width = (int(side) for side in rng.integers(50, 90, 2))
        pixels = np.clip(np.array(colour) + rng.integers(-40, 41, (height, width, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{number}-{name}.png")
    return sorted(root.iterdir(), key=lambda path: int(path.name.split("-")[0]))


def labels_of(photos: list[Path]) -> list[str]:
    return [path.stem.split("-")[1] for path in photos]


# --- the transformer -----------------------------------------------------------------------------


def test_a_vector_is_the_whole_image_pooled(model, photos):
    trunk = Classifier.load(model).network.trunk
    shown = resize_shorter(read_image(photos[0]), 64)
    with torch.inference_mode():
        features = trunk(to_tensor(shown, trunk.mean, trunk.std)[None])
        expected = pyramid_pool(features, None, (1, 2))[0].numpy()
    found = SPPFeatures(model=model).fit_transform(photos[:1])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[None], rtol=1e-5, atol=1e-6)  # engines round apart


def test_a_vector_does_not_depend_on_its_neighbours(model, photos):
    extractor = SPPFeatures(model=model).fit()
    together = extractor.transform(photos)
    alone = np.concatenate([extractor.transform([path]) for path in reversed(photos)])[::-1]
    np.testing.assert_array_equal(together, alone)


def test_any_kind_of_image_is_taken(model, photos):
    path = photos[0]
    kinds = [path, str(path), path.read_bytes(), Image.open(path), read_image(path)]
    found = SPPFeatures(model=model).fit_transform(kinds)
    np.testing.assert_array_equal(found, np.repeat(found[:1], len(kinds), axis=0))


def test_levels_and_scale_can_be_other_than_the_models(model, photos):
    extractor = SPPFeatures(model=model, levels=(1, 2, 3), scale_px=96).fit()
    assert (extractor.levels_, extractor.scale_px_, extractor.n_features_out_) == ((1, 2, 3), 96, 16 * 14)
    assert extractor.transform(photos[:2]).shape == (2, 16 * 14)
    assert list(extractor.get_feature_names_out())[:2] == ["spp0", "spp1"]
    assert extractor.transform([]).shape == (0, 16 * 14)


def test_it_learns_in_a_pipeline(model, photos):
    pipeline = make_pipeline(SPPFeatures(model=model), LogisticRegression())
    scores = cross_val_score(pipeline, photos, labels_of(photos), cv=3)
    assert scores.mean() == 1.0


def test_a_grid_search_sets_its_levels(model, photos):
    pipeline = make_pipeline(SPPFeatures(model=model), LogisticRegression())
    search = GridSearchCV(pipeline, {"sppfeatures__levels": [(1,), (1, 2)]}, cv=2)
    search.fit(photos, labels_of(photos))
    assert search.best_params_["sppfeatures__levels"] in [(1,), (1, 2)]
    assert list(search.predict(photos)) == labels_of(photos)


def test_clones_have_its_parameters_and_nothing_learnt(model):
    extractor = SPPFeatures(model=model, levels=(1, 3)).fit()
    check_is_fitted(extractor)
    copy = clone(extractor)
    assert copy.get_params() == extractor.get_params()
    assert not copy.__sklearn_is_fitted__()


def test_another_process_of_joblib_gets_it_with_its_network(model, photos):
    extractor = SPPFeatures(model=model).fit()
    content = pickle.dumps(extractor)
    assert len(content) < 1000  # the network's file is named, not copied
    copy = pickle.loads(content)  # noqa: S301
    np.testing.assert_array_equal(copy.transform(photos[:1]), extractor.transform(photos[:1]))


def test_what_is_saved_fitted_knows_its_network_again(model, photos, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(model.read_bytes())
    content = pickle.dumps(SPPFeatures(model=path).fit())
    path.unlink()
    gone = pickle.loads(content)  # noqa: S301  nothing fails before it is used
    check_is_fitted(gone)
    again = pickle.loads(pickle.dumps(gone))  # noqa: S301
    for copy in (gone, again):
        with pytest.raises(ModelError, match=r"no model file at .*saved fitted, with .*model\.safetensors"):
            copy.transform(photos[:1])
    small_classifier().save(path)
    with pytest.raises(ModelError, match="another network than when these features were saved"):
        gone.transform(photos[:1])
    gone.set_params(model=model)
    expected = SPPFeatures(model=model).fit_transform(photos[:1])
    np.testing.assert_array_equal(gone.transform(photos[:1]), expected)
    assert again.fit().transform(photos[:1]).shape == (1, again.n_features_out_)  # fitted anew: it is meant


@pytest.mark.parametrize("images", [None, 5, 2.5])
def test_what_is_no_list_of_images_is_refused(model, images):
    with pytest.raises(ConfigError, match=r"must be a list or a column of paths or images.*; got "):
        SPPFeatures(model=model).fit().transform(images)


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        pytest.param({}, ConfigError, "weights='imagenet' .downloaded once. or a file", id="no weights"),
        pytest.param({"model": "{model}", "trunk": "zf5"}, ConfigError, "of its own", id="two trunks"),
        pytest.param({"model": "{model}", "scale_px": 0}, ConfigError, "1 pixel or more", id="a scale of 0"),
        pytest.param({"model": "{model}", "levels": (0,)}, ValueError, "levels", id="a level of 0"),
        pytest.param({"model": "nowhere"}, ModelError, "no model file at nowhere", id="no model"),
    ],
)
def test_what_cannot_be_is_refused(model, parameters, error, message):
    given = {key: str(model) if value == "{model}" else value for key, value in parameters.items()}
    with pytest.raises(error, match=message):
        SPPFeatures(**given).fit()


def test_a_damaged_image_is_named(model, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ImageError, match=r"broken\.png"):
        SPPFeatures(model=model).fit_transform([tmp_path / "broken.png"])


def test_a_misspelt_parameter_is_answered(model):
    with pytest.raises(ConfigError, match="no 'level'; did you mean levels"):
        SPPFeatures(model=model).set_params(level=3)


def test_images_come_in_columns_tables_and_alone(model, photos):
    paths, extractor = [str(path) for path in photos[:2]], SPPFeatures(model=model).fit()
    expected = extractor.transform(paths)
    table = pandas.DataFrame({"path": paths}, index=[7, 3])
    for images in (
        table, table["path"], table.to_numpy(), np.array(paths), np.array(paths, object)[:, None],
        [[path] for path in paths], tuple(paths), iter(paths), [np.str_(path) for path in paths],
    ):  # fmt: skip
        np.testing.assert_array_equal(extractor.transform(images), expected)
    pixels = read_image(paths[0])
    for image in (
        paths[0], photos[0], photos[0].read_bytes(), Image.open(photos[0]), pixels,
        torch.from_numpy(pixels).permute(2, 0, 1),
    ):  # fmt: skip
        np.testing.assert_array_equal(extractor.transform(image), expected[:1])


@pytest.mark.parametrize("empty", [None, np.nan, pandas.NA], ids=str)
def test_a_row_without_an_image_is_told(model, photos, empty):
    paths = [str(photos[0]), empty]
    for images in (
        paths,
        pandas.Series(paths),
        pandas.DataFrame({"path": paths}),
        [[path] for path in paths],
    ):
        with pytest.raises(ConfigError, match=r"expected in every row; got one with .*as table\.dropna\(\)"):
            SPPFeatures(model=model).fit_transform(images)


@pytest.mark.parametrize("levels", [np.array([1, 3]), [np.int64(1), 3], torch.tensor([1, 3])], ids=str)
def test_levels_are_integers_of_any_kind(model, photos, levels):
    extractor = SPPFeatures(model=model, levels=levels)
    expected = SPPFeatures(model=model, levels=(1, 3)).fit_transform(photos[:1])
    np.testing.assert_array_equal(extractor.fit_transform(photos[:1]), expected)
    assert clone(extractor).fit().levels_ == (1, 3)


def test_a_table_of_several_columns_is_refused(model, photos):
    table = pandas.DataFrame({"path": photos[:2], "label": ["a", "b"]})
    with pytest.raises(ConfigError, match=r"table of 2 columns \(path, label\)\. Choose .*table\['path'\]"):
        SPPFeatures(model=model).fit_transform(table)
    with pytest.raises(ConfigError, match="a row of 2 cells"):
        SPPFeatures(model=model).fit_transform(table.to_numpy())


def test_set_output_gives_a_table(model, photos):
    images = pandas.Series(photos[:3], index=["x", "y", "z"])
    extractor = SPPFeatures(model=model).set_output(transform="pandas")
    table = extractor.fit_transform(images)
    assert list(table.index) == ["x", "y", "z"]
    assert list(table.columns) == list(extractor.get_feature_names_out())
    plain = SPPFeatures(model=model).fit_transform(photos[:3])
    np.testing.assert_array_equal(table.to_numpy(), plain)
    assert list(extractor.transform(photos[:2]).index) == [0, 1]
    pickled = pickle.loads(pickle.dumps(extractor))  # noqa: S301
    for copied in (clone(extractor), pickled, extractor.set_output()):
        assert isinstance(copied.fit_transform(photos[:1]), pandas.DataFrame)
    assert isinstance(extractor.set_output(transform="default").transform(photos[:1]), np.ndarray)
    with pytest.raises(ConfigError, match="one of default, pandas, polars; got 'numpy'"):
        extractor.set_output(transform="numpy")


def test_a_pipeline_and_scikit_learn_itself_choose_the_output(model, photos):
    pipeline = make_pipeline(SPPFeatures(model=model), StandardScaler()).set_output(transform="pandas")
    assert isinstance(pipeline.fit_transform(photos[:3]), pandas.DataFrame)
    with config_context(transform_output="pandas"):
        assert isinstance(SPPFeatures(model=model).fit_transform(photos[:1]), pandas.DataFrame)
    assert isinstance(SPPFeatures(model=model).fit_transform(photos[:1]), np.ndarray)


def test_a_table_of_polars(model, photos):
    polars = pytest.importorskip("polars", reason="the extra polars is not installed")
    plain = SPPFeatures(model=model).fit_transform(photos[:3])
    extractor = SPPFeatures(model=model).set_output(transform="polars")
    column = polars.DataFrame({"path": list(map(str, photos[:3]))})["path"]
    for images in (photos[:3], column):
        table = extractor.fit_transform(images)
        assert isinstance(table, polars.DataFrame)
        assert table.columns == list(extractor.get_feature_names_out())
        assert set(table.dtypes) == {polars.Float32}
        np.testing.assert_array_equal(table.to_numpy(), plain)
    pipeline = make_pipeline(SPPFeatures(model=model), StandardScaler()).set_output(transform="polars")
    assert isinstance(pipeline.fit_transform(photos[:3]), polars.DataFrame)


def test_tables_need_their_package(model, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    extractor = SPPFeatures(model=model).set_output(transform="polars")
    with pytest.raises(MissingExtraError, match=r"sppnet\[polars\]"):
        extractor.fit_transform(photos[:1])


# --- the command ---------------------------------------------------------------------------------


def run_features(monkeypatch, capsys, *arguments: object) -> tuple[object, str, str]:
    """Exit code, or the message it exits with; standard output; standard error."""
    monkeypatch.setattr(sys, "argv", ["sppnet", "features", *map(str, arguments)])
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def read_parquet(path: Path) -> tuple[list[str], np.ndarray, dict]:
    from pyarrow import parquet

    table = parquet.read_table(path)
    assert table.column_names == ["number", "image", "reason", "vector"]  # as --executor ray writes them
    header = json.loads(table.schema.metadata[b"sppnet"])
    rows = table.to_pylist()
    assert [row["number"] for row in rows] == list(range(len(rows)))
    assert all((row["vector"] is None) == (row["reason"] is not None) for row in rows)
    good = [row for row in rows if row["reason"] is None]
    return [row["image"] for row in good], np.array([row["vector"] for row in good], np.float32), header


def read_safetensors(path: Path) -> tuple[list[str], np.ndarray, dict]:
    header, tensors = load_model(path, "vectors")
    return header["names"], tensors["vectors"].numpy(), header


@pytest.mark.parametrize(
    ("suffix", "read"), [("safetensors", read_safetensors), ("parquet", read_parquet)], ids=["st", "pq"]
)
def test_a_file_holds_names_and_vectors(model, photos, tmp_path, monkeypatch, capsys, suffix, read):
    out = tmp_path / "new" / f"vectors.{suffix}"
    code, printed, _ = run_features(monkeypatch, capsys, *photos, "--model", model, "--out", out)
    assert (code, printed) == (0, f"{out}\n")
    names, vectors, header = read(out)
    assert names == [path.as_posix() for path in photos]
    np.testing.assert_array_equal(vectors, SPPFeatures(model=model).fit_transform(photos))
    assert header["levels"] == [1, 2]
    assert (header["scale_px"], header["model"]) == (64, "best.safetensors")


@pytest.mark.parametrize("suffix", ["safetensors", "parquet"])
def test_a_damaged_image_costs_no_other_its_vector(model, photos, tmp_path, monkeypatch, capsys, suffix):
    broken, out = tmp_path / "broken.png", tmp_path / f"vectors.{suffix}"
    broken.write_bytes(photos[0].read_bytes()[:200])
    images = [photos[0], broken, photos[1]]
    code, printed, told = run_features(monkeypatch, capsys, *images, "--model", model, "--out", out)
    assert (code, printed) == (1, f"{out}\n")
    assert "left out: " in told
    assert "broken.png" in told
    names, vectors, _ = (read_parquet if suffix == "parquet" else read_safetensors)(out)
    assert names == [photos[0].as_posix(), photos[1].as_posix()]
    assert vectors.shape == (2, 16 * 5)


@pytest.mark.parametrize("suffix", ["safetensors", "parquet"])
def test_of_damaged_images_alone_the_file_is_empty(model, tmp_path, monkeypatch, capsys, suffix):
    broken, out = tmp_path / "broken.png", tmp_path / f"vectors.{suffix}"
    broken.write_bytes(b"no image")
    code, _, _ = run_features(monkeypatch, capsys, broken, "--model", model, "--out", out)
    assert code == 1
    names, vectors, _ = (read_parquet if suffix == "parquet" else read_safetensors)(out)
    assert (names, len(vectors)) == ([], 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--out", "v.csv"], "written to .safetensors or .parquet; got 'v.csv'", id="a format"),
        pytest.param(["--out", "v.parquet", "--levels", "1,x"], "--levels must be integers", id="levels"),
        pytest.param(["--out", "v.parquet"], "features need trained weights", id="no weights"),
        pytest.param(["--out", "v.parquet", "--model", "no"], "no model file at no", id="no model"),
    ],
)
def test_errors_come_before_the_work(photos, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, printed, _ = run_features(monkeypatch, capsys, *photos, *arguments)
    assert str(code).startswith("sppnet: ")
    assert message in str(code)
    assert printed == ""
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    from sppnet.cli.features import check_suffix

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'sppnet\[parquet\]'"):
        check_suffix(Path("vectors.parquet"))


# --- a trunk with taps at several strides --------------------------------------------------------


def test_a_vector_holds_what_every_tap_gives(photos, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "trunk.pth"
    torch.save(load_trunk("mobilenet_v2:3+5").body.state_dict(), weights)
    levels = (1, 2)
    both = SPPFeatures(trunk="mobilenet_v2:3+5", weights=weights, levels=levels).fit().vector(photos[0])
    trunk = load_trunk("mobilenet_v2:3+5", weights=weights).eval()
    shown = resize_shorter(read_image(photos[0]), 224)
    with torch.no_grad():
        maps = trunk.maps(to_tensor(shown, trunk.mean, trunk.std)[None])
        assert len(maps) == 2
        expected = torch.cat([SpatialPyramidPooling(levels)(features)[0] for features in maps])
    np.testing.assert_allclose(both, expected.numpy(), rtol=1e-5, atol=1e-6)
