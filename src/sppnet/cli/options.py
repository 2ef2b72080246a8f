"""Options that several commands have, and options made from the fields of a configuration.

A name, its type, its default and the sentence beside it are the option's name, type, default and help, so
that adding an option is adding a field. Sources are read as text: their imports would make help wait.
"""

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib.abc import InspectLoader
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from sppnet.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Report = Annotated[
    Path | None, typer.Option("--report", help="The report. Default: evaluation.html beside the model.")
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.")]

Executor = Literal["local", "ray"]
ExecutorOption = Annotated[
    Executor, typer.Option(help="local, or ray: all cores, or the machines of RAY_ADDRESS (docs/cluster.md).")
]
"""Who does the work on many images: this process, or those of a Ray."""


def _refuse_engine(given: str | None) -> None:
    if given is not None:
        raise ConfigError(
            f"--engine is called --executor here, local or ray: write --executor {given} (--engine is what "
            "runs the trunk, of detect train)"
        )


FormerEngine = Annotated[str | None, typer.Option("--engine", hidden=True, callback=_refuse_engine)]
"""What `ExecutorOption` was called in version 0.1."""


def parse_integers(
    option: str, text: str, expected: str = "integers such as 1,2,3,6", count: int | None = None
) -> tuple[int, ...]:
    """Integers between commas, `count` of them if that is given; raises ConfigError for anything else."""
    return tuple(int(number) for number in parse_numbers(option, text, expected, count, int))


def parse_numbers(
    option: str, text: str, expected: str, count: int | None = None, kind: type[float] = float
) -> tuple[float, ...]:
    """Numbers between commas, as `parse_integers`."""
    try:
        numbers = tuple(kind(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or count not in (None, len(numbers)):
        raise ConfigError(f'{option} must be {expected}; got "{text}"')
    return numbers


# --- options from a configuration ----------------------------------------------------------------

# A name, its type, its default and the sentence beside it are the option's name, type, default and help, so
# that adding an option is adding a field. Sources are read as text: their imports would make help wait.


Command = Callable[..., None]

TYPES = {"int": int, "float": float, "bool": bool, "Path": Path}
"""By the first word of an annotation; everything else is given as text, and checked by whoever takes it."""


@dataclass(frozen=True)
class Field:
    """A field of a dataclass, or a parameter of a function, as its source has it."""

    name: str
    annotation: str
    default: Any
    help: str

    def parameter(self, option: str) -> inspect.Parameter:
        """The option as typer takes it: None where it is not given, so that the source's default holds."""
        kind: Any = TYPES.get(self.annotation.split(" ")[0], str)
        help_text = self.help + self._default_in_words()
        names = f"{option}/--no-{option[2:]}" if self.default is True else option
        info = typer.Option(names, help=help_text) if option[0] == "-" else typer.Argument(help=help_text)
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
        )

    def _default_in_words(self) -> str:
        if self.default in (None, ()) or isinstance(self.default, bool):
            return ""
        value = ",".join(map(str, self.default)) if isinstance(self.default, tuple) else self.default
        return f" [default: {value}]"

    def read(self, option: str, given: Any) -> Any:
        """The value for what was typed; raises ConfigError for text that is no list of numbers."""
        if self.annotation in ("Sequence[str]", "tuple[str, ...]"):
            return tuple(given.split(","))
        if self.annotation == "tuple[int, int]":
            return parse_integers(option, given, "two whole numbers such as 1024,256", 2)
        if not self.annotation.startswith("tuple["):
            return given
        may_be_none = self.annotation.endswith("| None")
        if may_be_none and given == "none":
            return None
        return parse_integers(option, given, f"integers such as 1,2,3,6{', or none' * may_be_none}")


def read_fields(module: str, name: str) -> list[Field]:
    """The fields of a dataclass in the order of its source, their help the docstring below each."""
    definition = _definition(_source(module), name)
    assert isinstance(definition, ast.ClassDef)
    return [
        Field(line.target.id, ast.unparse(line.annotation), _literal(line.value), _docstring(below))
        for line, below in zip(definition.body, [*definition.body[1:], None], strict=True)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    ]


def read_parameters(module: str, name: str) -> tuple[str, list[Field]]:
    """What a module is for, and the parameters of a function of it that are Annotated[type, help]."""
    source = _source(module)
    definition = _definition(source, name)
    assert isinstance(definition, ast.FunctionDef)
    found = []
    for argument, default in zip(definition.args.args, definition.args.defaults, strict=True):
        match argument.annotation:
            case ast.Subscript(ast.Name("Annotated"), ast.Tuple([kind, ast.Constant(str(help_text))])):
                found.append(Field(argument.arg, ast.unparse(kind), _literal(default), help_text))
    return source.split('"""')[1].split("\n\n")[0].strip(), found


def _source(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None
    assert isinstance(spec.loader, InspectLoader)
    return spec.loader.get_source(module) or ""


def _definition(source: str, name: str) -> ast.stmt:
    """A class, or a function without its body, out of a module. Only that is parsed: help may not wait."""
    lines = source.splitlines()
    begins = (f"class {name}:", f"class {name}(", f"def {name}(")
    start = next(index for index, line in enumerate(lines) if line.startswith(begins))
    rest = takewhile(lambda line: line[:1] in ("", " "), lines[start + 1 :])
    end = "): ..." if lines[start].startswith("def") else ""
    return ast.parse("\n".join([lines[start], *rest, end])).body[0]


def _literal(default: ast.expr | None) -> Any:
    """None for anything else than a literal."""
    try:
        return None if default is None else ast.literal_eval(default)
    except ValueError:
        return None


def _docstring(below: ast.stmt | None) -> str:
    match below:
        case ast.Expr(ast.Constant(str(text))):
            return " ".join(text.split())
    return ""


def options_of(
    fields: Sequence[Field], names: Mapping[str, str] | None = None
) -> Callable[[Command], Command]:
    """Decorator: in place of a command's parameter `given` stand options, one a field.

    The command gets a dict of what was given. names: options that are not called as their field; without
    dashes it is an argument.
    """
    options = {field: (names or {}).get(field.name, f"--{field.name.replace('_', '-')}") for field in fields}

    def decorate(command: Command) -> Command:
        @wraps(command)
        def call(**arguments: Any) -> None:
            typed = {field: arguments.pop(field.name) for field in options}
            given = {
                field.name: field.read(options[field], value)
                for field, value in typed.items()
                if value is not None
            }
            command(**arguments, given=given)

        signature = inspect.signature(command)
        own = [each.replace(kind=each.KEYWORD_ONLY) for each in signature.parameters.values()]
        place = list(signature.parameters).index("given")
        own[place : place + 1] = [field.parameter(option) for field, option in options.items()]
        call.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        return call

    return decorate
