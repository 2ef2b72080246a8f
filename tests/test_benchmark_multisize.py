"""`sppnet benchmark multisize`: runs that go on where they stood, rows, and the test that compares them."""

import json
import shlex

import pytest
import torch
from safetensors.torch import load_file

from sppnet.benchmark import multisize
from sppnet.benchmark.paired import Paired, compare_paired, spread_of, two_sided_p
from sppnet.classify.run_folder import RunFolder
from sppnet.demo import generate
from sppnet.errors import ConfigError

FEW = {"width": 0.0625, "seeds": (0, 1), "sizes": (112, 96), "epochs": 2, "batch_size": 8, "workers": 0}
ALL_BUT_96 = ("crop", "small crop", "full", "10")
FOLDERS = {"fixed-112", "pyramid-112", "pyramid-of-30-112", "pyramid-112,96", "pyramid-96-to-112"}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    generate(root / "train", images_per_class=2, seed=0)
    generate(root / "val", images_per_class=1, seed=1)
    return root


@pytest.fixture(scope="module")
def measured(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return out, multisize.run(photographs, out, columns=ALL_BUT_96, **FEW)


def test_every_seed_of_every_row_has_a_folder(measured):
    out, result = measured
    assert {path.parent.relative_to(out).as_posix() for path in out.rglob("top1.json")} == {
        f"zf5/{folder}/seed-{seed}" for folder in FOLDERS for seed in (0, 1)
    }
    assert {row.epochs for row in result.rows} == {2}
    assert len({row.updates for row in result.rows}) == 1
    assert all(row.seeds == (0, 1) and len(row.minutes) == 2 for row in result.rows)


def test_a_network_of_one_size_is_shown_that_size_alone(measured):
    fixed, *pyramids = measured[1].rows
    assert set(fixed.top1) == {"crop", "10"}
    assert all(tuple(row.top1) == ALL_BUT_96 for row in pyramids)


def test_rows_are_compared_as_the_paper_does(measured):
    result = measured[1]
    fixed, single, few, alternate, drawn = (row.training for row in result.rows)
    assert [(one.better, one.than, one.column) for one in result.comparisons] == [
        *((pyramid, fixed, name) for pyramid in (single, few) for name in ("crop", "10")),
        *((more, single, name) for more in (alternate, drawn) for name in ALL_BUT_96),
    ]  # fmt: skip
    first = result.comparisons[0]
    assert first.paired == compare_paired(result.rows[1].top1["crop"], result.rows[0].top1["crop"])


def test_what_is_there_is_not_done_again(measured, photographs, monkeypatch):
    out, before = measured

    def refuse(*arguments, **options):
        raise AssertionError("it trains or tests again")

    monkeypatch.setattr(multisize, "train", refuse)
    tested = []
    monkeypatch.setattr(multisize, "evaluate", refuse)
    again = multisize.run(photographs, out, columns=("crop", "full"), **FEW)
    assert again.rows[1].top1["full"] == before.rows[1].top1["full"]

    class Right:
        top1 = 0.75

    monkeypatch.setattr(multisize, "evaluate", lambda *given, **views: tested.append(views) or Right)
    more = multisize.run(photographs, out, columns=("crop", "96"), **{**FEW, "seeds": (1,)})
    assert tested == [{"views": "96", "size_px": 112}] * 5
    assert more.rows[0].top1 == {"crop": (before.rows[0].top1["crop"][1],), "96": (0.75,)}


def test_a_stopped_run_goes_on(photographs, tmp_path, monkeypatch):
    options = {**FEW, "seeds": (0,), "columns": ("crop",)}
    whole = multisize.run(photographs, tmp_path / "whole", **options)
    save = RunFolder.save_checkpoint

    def stop(folder, state, tensors):
        save(folder, state, tensors)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            multisize.run(photographs, tmp_path / "stopped", **options)
    assert not list((tmp_path / "stopped").rglob("top1.json"))
    resumed = multisize.run(photographs, tmp_path / "stopped", **options)
    assert [row.top1 for row in resumed.rows] == [row.top1 for row in whole.rows]
    last = "zf5/fixed-112/seed-0/last.safetensors"
    assert (tmp_path / "stopped" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()


def test_other_settings_in_the_same_folder_are_refused(measured, photographs):
    with pytest.raises(ConfigError, match="was started with other settings: epochs was 2"):
        multisize.run(photographs, measured[0], **{**FEW, "epochs": 3})


def test_a_row_is_one_command(measured, photographs, inside, tmp_path):
    out, result = measured
    assert "--levels 1,2,3,4 " in result.rows[2].command
    row = result.rows[3]
    run = out / "zf5" / "pyramid-112,96" / "seed-0"
    assert f"--out {run}" in row.command
    words = shlex.split(row.command.replace(str(run), str(tmp_path / "again")))
    assert words[0] == "sppnet"
    code, printed, said = inside(*words[1:], "--no-report")
    assert code == 0, said
    mine, theirs = (load_file(folder / "last.safetensors") for folder in (tmp_path / "again", run))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    for name, command in result.test_commands.items():
        words = shlex.split(command.replace("RUN", str(run)))[1:]
        code, printed, said = inside(*words, "--json", "--no-report")
        assert code == 0, said
        assert json.loads(printed)["top1"] == row.top1[name][0]


def test_the_command_prints_rows_and_comparisons(measured, photographs, inside):
    out, result = measured
    options = [
        "--out", out, "--width", 0.0625, "--seeds", "0,1", "--sizes", "112,96", "--epochs", 2,
        "--batch-size", 8, "--workers", 0, "--columns", "crop,full",
    ]  # fmt: skip
    code, printed, said = inside("benchmark", "multisize", photographs, *options)
    assert code == 0, said
    for row in result.rows:
        assert f"zf5: {row.training}" in printed
        assert row.command in printed
    mean, deviation = spread_of(result.rows[1].top1["full"])
    assert f"{100 * mean:.1f} ± {100 * deviation:.1f}" in printed
    code, printed, said = inside("benchmark", "multisize", photographs, *options, "--json")
    told = json.loads(printed)
    assert told["benchmark"] == "multisize"
    assert told["rows"][1]["mean"]["full"] == mean


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"out": None}, "name the photographs and a folder"),
        ({"seeds": (1, 1)}, "each once"),
        ({"sizes": (96, 112)}, "a large one and a smaller one"),
        ({"columns": ("crops",)}, "got crops"),
    ],
)
def test_what_cannot_be_measured_is_refused(photographs, tmp_path, options, fault):
    with pytest.raises(ConfigError, match=fault):
        multisize.run(**{"data": photographs, "out": tmp_path / "runs", **FEW, **options})
    assert not (tmp_path / "runs").exists()


# --- the paired test -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    # scipy 1.17: 2 · stats.t.sf(t, freedom)
    [(2, 1, 0.29516723530086664), (4.3, 2, 0.05005715411709159), (-3, 4, 0.03994196807171883),
     (0.5, 9, 0.6290712998260263), (0, 3, 1)],
)  # fmt: skip
def test_p_is_that_of_students_distribution(t, freedom, p):
    assert two_sided_p(t, freedom) == pytest.approx(p, abs=1e-9)


def test_pairs_are_compared():
    # scipy 1.17: stats.ttest_rel([0.5, 0.6, 0.75], [0.4, 0.55, 0.6])
    paired = compare_paired([0.5, 0.6, 0.75], [0.4, 0.55, 0.6])
    assert paired.differences == pytest.approx((0.1, 0.05, 0.15))
    assert (paired.mean, paired.p) == pytest.approx((0.1, 0.0741799))
    assert compare_paired([0.5], [0.25]) == Paired((0.25,), 0.25, None)
    assert compare_paired([0.5, 0.5], [0.5, 0.5]).p == 1
    assert compare_paired([0.5, 0.75], [0.25, 0.5]).p == 0


def test_one_value_has_no_spread():
    assert spread_of([0.5]) == (0.5, None)
    assert spread_of([0.25, 0.75]) == (0.5, pytest.approx(0.3535534))
