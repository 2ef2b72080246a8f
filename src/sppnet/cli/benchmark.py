"""sppnet benchmark …"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

from sppnet.cli.options import Json, options_of, read_parameters
from sppnet.errors import MissingExtraError, SppnetError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sppnet.benchmark.accuracy import AccuracyResult
    from sppnet.benchmark.learn import LearnResult
    from sppnet.benchmark.multisize import MultisizeResult
    from sppnet.benchmark.results import Row

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

EVERY = ("pool", "map", "svm", "rcnn", "proposals", "detect", "train", "gpu")
"""Modules of sppnet.benchmark, in the order of `all`."""


def _add_command(name: str, show: Callable[[Any, bool], None]) -> None:
    """A benchmark as a command. show: prints what its `run` returns, as JSON or in words."""
    module = f"sppnet.benchmark.{name.replace('-', '_')}"
    purpose, parameters = read_parameters(module, "run")

    @app.command(name, help=purpose)
    @options_of(parameters, {"data": "data"})
    def command(given: dict[str, Any], as_json: Json = False) -> None:
        from importlib import import_module

        from sppnet.cli.output import Bars

        with Bars() as bars:
            found = import_module(module).run(**given, progress=bars)
        show(found, as_json)


def _show_stages(name: str, title: str, columns: dict[str, Callable[[Any], str]]) -> None:
    """A command that replays labelling; columns: what stands in each, of a stage."""

    def show(stages: "Sequence[Any]", as_json: bool) -> None:
        from dataclasses import asdict

        from sppnet.cli.output import print_json, print_table

        if as_json:
            print_json({"benchmark": name, "rows": [asdict(stage) for stage in stages]})
            return
        rows = [[text(one) for text in columns.values()] for one in stages]
        print_table(f"{name}: {title}", list(columns), rows)

    _add_command(name, show)


def everything(as_json: Json = False) -> None:
    """Every benchmark with its defaults, a table each: a quarter of an hour, and 8 GB."""
    from importlib import import_module

    from sppnet.benchmark.results import to_json
    from sppnet.cli.output import Bars, notes, print_json

    results, failed = [], False
    for name in EVERY:
        try:
            with Bars() as bars:
                rows = import_module(f"sppnet.benchmark.{name}").run(progress=bars)
        except SppnetError as error:  # the others are worth their minutes all the same
            missing = isinstance(error, MissingExtraError)
            notes.print(f"{name} {'is left out' if missing else 'failed'}: {error}")
            failed |= not missing
            continue
        if as_json:
            results.append(to_json(name, rows))
        else:
            _print(name, rows, as_json=False)
    if as_json:
        print_json(results)
    if failed:
        raise typer.Exit(1)


def _print(name: str, rows: "Sequence[Row]", as_json: bool) -> None:
    from sppnet.benchmark.results import to_json
    from sppnet.cli.output import notes, print_json, print_table

    if as_json:
        print_json(to_json(name, rows))
        return
    if not rows:  # of gpu alone
        notes.print("no GPU")
        return
    columns = ["case", "ours ms", "peer ms", "ratio", "quartiles", "floor ms"]
    table = [
        [row.case, f"{row.ours_s * 1e3:,.2f}", f"{row.peer_s * 1e3:,.1f}", f"{row.ratio:.1f}×",
         "–".join(f"{end:.1f}" for end in row.ratio_spread), f"{row.floor_s * 1e3:,.2f}"]
        for row in rows
    ]  # fmt: skip
    if any(row.ours_bytes is not None for row in rows):
        columns += ["ours GB", "peer GB"]
        for cells, row in zip(table, rows, strict=True):
            cells += [_gigabytes(row.ours_bytes), _gigabytes(row.peer_bytes)]
    for cells, row in zip(table, rows, strict=True):
        cells.append(row.peer)
    title = f"{name}: medians, both sides timed in turn in this run"
    print_table(title, [*columns, "peer"], table, words=("peer",))
    for note in dict.fromkeys(row.note for row in rows if row.note):
        typer.echo(note)


def _show_accuracy(result: "AccuracyResult", as_json: bool) -> None:
    from sppnet.cli.images import tell_left_out
    from sppnet.cli.output import percent, print_json, print_table

    tell_left_out(result.images, result.skipped)
    if as_json:
        print_json(result.to_json())
        return
    columns = ["model", "trunk", "scales", "engine", "mAP", "ms", "quartiles", "GB", "MB more"]
    table = [
        [row.model, row.trunk, ",".join(map(str, row.scales)), row.engine, percent(row.map),
         f"{row.median_s * 1e3:,.1f}", f"{row.q1_s * 1e3:,.1f}–{row.q3_s * 1e3:,.1f}",
         _gigabytes(row.peak_bytes), "" if row.grown_bytes is None else f"{row.grown_bytes / 1e6:,.0f}"]
        for row in result.rows
    ]  # fmt: skip
    measured = f"mAP (VOC 2007, 11 points) of {result.images} photographs"
    timed = f"ms from file to boxes, medians of {result.timed}, the models in turn"
    print_table(f"accuracy: {measured}; {timed}", columns, table, words=("trunk", "scales", "engine"))
    for row in result.rows:
        if left_out := [name for name in result.classes if name not in row.classes]:
            typer.echo(f"{row.model}: mAP without {', '.join(left_out)}, which it does not know")


def _show_multisize(result: "MultisizeResult", as_json: bool) -> None:
    from sppnet.benchmark.paired import spread_of
    from sppnet.cli.output import print_json, print_table

    if as_json:
        print_json(result.to_json())
        return

    def shown(values: "Sequence[float] | None") -> str:
        if values is None:
            return "–"
        mean, deviation = spread_of(values)
        return f"{100 * mean:.1f}" if deviation is None else f"{100 * mean:.1f} ± {100 * deviation:.1f}"

    columns = list(result.test_commands)
    table = [
        [f"{row.trunk}: {row.training}", *(shown(row.top1.get(name)) for name in columns),
         f"{sum(row.minutes) / len(row.minutes):.1f}"]
        for row in result.rows
    ]  # fmt: skip
    first = result.rows[0]
    what = f"{len(first.seeds)} seeds, {first.epochs} epochs of {result.images}, {first.updates} updates"
    title = f"multisize: top-1 in % of {result.tested} images, mean ± standard deviation of {what}"
    print_table(title, ["training", *columns, "minutes"], table)
    differences = [
        [f"{one.trunk}: {one.better}, less {one.than}", one.column, f"{100 * one.paired.mean:+.1f}",
         " ".join(f"{100 * each:+.1f}" for each in one.paired.differences),
         "" if one.paired.p is None else f"{one.paired.p:.2f}"]
        for one in result.comparisons
    ]  # fmt: skip
    print_table(
        "differences in points, p of a paired t-test",
        ["rows", "views", "mean", "by seed", "p"], differences, words=("views",),
    )  # fmt: skip
    for row in result.rows:
        typer.echo(row.command)
    for line in result.test_commands.values():
        typer.echo(line)


def _show_learn(result: "LearnResult", as_json: bool) -> None:
    from sppnet.benchmark.paired import spread_of
    from sppnet.cli.output import print_json, print_table

    if as_json:
        print_json(result.to_json())
        return
    table = []
    for row in result.rows:
        mean, deviation = spread_of(row.map)
        spread = "" if deviation is None else f" ± {100 * deviation:.1f}"
        table.append(
            [row.learner, row.trunk, "" if row.seconds is None else f"{row.seconds:g}",
             f"{spread_of(row.train_s)[0]:.0f}", f"{100 * mean:.1f}{spread}",
             f"{100 * spread_of(row.map_50_95)[0]:.1f}", f"{1e3 * spread_of(row.detect_s)[0]:.0f}",
             _gigabytes(max(row.peak_bytes))]
        )  # fmt: skip
    what = f"{result.images} photographs to learn from, {result.tested} to test on"
    title = f"learn: mAP by 11 points (50:95: area, the mean over ten IoUs), {what}"
    columns = ["learner", "trunk", "given s", "took s", "mAP", "50:95", "ms a photograph", "GB"]
    print_table(title, columns, table, words=("trunk",))
    typer.echo(result.plot or "no figure: install the extra sppnet[plots]")


def _gigabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e9:.2f}"


# --- the commands --------------------------------------------------------------------------------

for _name in EVERY:
    _add_command(_name, partial(_print, _name))

_STAGE: dict[str, Callable[[Any], str]] = {"photographs": lambda one: f"{one.first + 1}–{one.last}"}
_SECONDS: dict[str, Callable[[Any], str]] = {
    "median s": lambda one: f"{one.median_s:.2f}",
    "95 % s": lambda one: f"{one.p95_s:.2f}",
}

_show_stages(
    "label",
    "against drawing every box; seconds from confirmation to new suggestions",
    {
        **_STAGE,
        "boxes": lambda one: str(one.boxes),
        "taken": lambda one: f"{one.taken:.0%}",
        "moved": lambda one: f"{one.moved:.0%}",
        "drawn": lambda one: f"{one.drawn:.0%}",
        "refused a taken": lambda one: f"{one.refused_per_taken:.2f}",
        **_SECONDS,
    },
)
_show_stages(
    "label-classes",
    "suggestions before each photograph was labelled; seconds from label to new ones",
    {
        **_STAGE,
        "suggested": lambda one: f"{one.suggested:.0%}",
        "right": lambda one: f"{one.right:.0%}",
        **_SECONDS,
    },
)
_add_command("accuracy", _show_accuracy)
_add_command("multisize", _show_multisize)
_add_command("learn", _show_learn)
app.command("all")(everything)
