"""Options that are made from configurations: every field is one, told as its dataclass has it."""

import inspect
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.main import get_command

from sppnet.classify.config import TrainingConfig
from sppnet.cli.app import app
from sppnet.cli.options import options_of, read_fields, read_parameters
from sppnet.detect.config import DetectorConfig
from sppnet.errors import ConfigError

CONFIGURATIONS = [
    pytest.param("classify", TrainingConfig, {"view": "--views", "scale_px": "--scale"}, id="classify"),
    pytest.param("detect", DetectorConfig, {}, id="detect"),
]


@pytest.mark.parametrize(("command", "configuration", "names"), CONFIGURATIONS)
def test_every_field_is_an_option_with_its_help_and_default(command, configuration, names):
    options = {option.name: option for option in get_command(app).commands[command].commands["train"].params}
    for field in fields(configuration):
        option = options[field.name]
        assert option.opts == [names.get(field.name, f"--{field.name.replace('_', '-')}")]
        assert option.default is None, "what is not given is the configuration's own default"
        help_text, _, told = option.help.partition(" [default: ")
        assert help_text[-1:] == ".", f"{field.name} needs a docstring under it, a full sentence"
        if field.default == ():
            assert told == ""
        elif isinstance(field.default, tuple):
            assert told == f"{','.join(map(str, field.default))}]"
        elif field.default is not None and not isinstance(field.default, bool):
            assert told == f"{field.default}]"


@pytest.mark.parametrize("configuration", [TrainingConfig, DetectorConfig])
def test_the_source_is_read_as_python_reads_it(configuration):
    read = read_fields(configuration.__module__, configuration.__name__)
    known = fields(configuration)
    assert [(field.name, field.default) for field in read] == [(each.name, each.default) for each in known]
    for ours, theirs in zip(read, known, strict=True):
        kinds = [kind for kind in get_args(theirs.type) or [theirs.type] if kind is not type(None)]
        asked = ours.parameter(f"--{ours.name}").annotation.__args__[0]
        plain = kinds[0] if kinds[0] in (int, float, bool) and "tuple" not in ours.annotation else str
        assert asked == plain | None


SOURCE = '''
from numpy import nowhere

class Config:
    """Not a field."""

    sizes: tuple[int, ...] | None = (3, 4)
    """One,
    two."""
    fast: bool = True
    """Be fast."""
    rate: float = CONSTANT
'''


@pytest.fixture
def call(tmp_path, monkeypatch):
    """What a command with the options of SOURCE is given."""
    (tmp_path / "a_configuration.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)

    def command(out: str, given: dict[str, Any], last: bool = False) -> None:
        seen.append((out, given, last))

    seen: list[Any] = []
    made = options_of(read_fields("a_configuration", "Config"), {"rate": "--speed"})(command)

    def run(**arguments: Any) -> Any:
        made(**{"out": "x", "last": True, "sizes": None, "fast": None, "rate": None, **arguments})
        return seen.pop()

    run.made = made
    return run


def test_a_module_is_not_run_for_its_options(call):
    parameters = inspect.signature(call.made).parameters
    assert list(parameters) == ["out", "sizes", "fast", "rate", "last"]
    assert "a_configuration" not in sys.modules
    told = {name: each.annotation.__metadata__[0] for name, each in list(parameters.items())[1:4]}
    assert {name: (each.default, each.help) for name, each in told.items()} == {
        "sizes": ("--sizes", "One, two. [default: 3,4]"),
        "fast": ("--fast/--no-fast", "Be fast."),
        "rate": ("--speed", ""),
    }


def test_a_command_gets_what_was_given(call):
    assert call() == ("x", {}, True)
    assert call(sizes="1,2", fast=False, rate=0.0) == (
        "x", {"sizes": (1, 2), "fast": False, "rate": 0.0}, True,
    )  # fmt: skip
    assert call(sizes="none") == ("x", {"sizes": None}, True)
    with pytest.raises(ConfigError, match='--sizes must be integers such as 1,2,3,6, or none; got "1,"'):
        call(sizes="1,")


FUNCTION = '''"""Do something
slowly.

Or not."""

def run(
    boxes: Annotated[Path | Reals | None, "A file."] = None,
    ranks: Annotated[tuple[int, int], "Two of them."] = (3, 4),
    peers: Annotated[Sequence[str], "Names."] = PEERS,
    seed: int = 0,
) -> None: ...
'''


def test_annotated_parameters_are_options(tmp_path, monkeypatch):
    (tmp_path / "a_function.py").write_text(FUNCTION)
    monkeypatch.syspath_prepend(tmp_path)
    purpose, parameters = read_parameters("a_function", "run")
    assert purpose == "Do something\nslowly."
    assert [(each.name, each.default, each.help) for each in parameters] == [
        ("boxes", None, "A file."), ("ranks", (3, 4), "Two of them."), ("peers", None, "Names."),
    ]  # fmt: skip
    boxes, ranks, peers = parameters
    assert boxes.parameter("--boxes").annotation.__args__[0] == Path | None
    assert ranks.read("--ranks", "5,6") == (5, 6)
    with pytest.raises(ConfigError, match="--ranks must be two whole numbers"):
        ranks.read("--ranks", "5,6,7")
    assert peers.read("--peers", "a,b") == ("a", "b")
    assert peers.parameter("peers").annotation.__metadata__[0].param_decls is None  # an argument
