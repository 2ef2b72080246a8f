"""Command-line options made from the fields of a configuration dataclass.

A field's name, type, default and the docstring under it are the option's name, type, default and help,
so that adding an option is adding a field. The class is read as text: its imports would make help wait.
"""

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from sppnet.cli.options import parse_integers

TYPES = {"int": int, "float": float, "bool": bool, "Path": Path}
"""By the first word of an annotation; everything else is given as text, and checked by the class."""


@dataclass(frozen=True)
class Field:
    """A field of a configuration as its source has it."""

    name: str
    annotation: str
    default: Any
    help: str

    def parameter(self, option: str) -> inspect.Parameter:
        """The option as typer takes it: None where it is not given, so that the class's default holds."""
        kind: Any = TYPES.get(self.annotation.split(" ")[0], str)
        names = f"{option}/--no-{option[2:]}" if self.default is True else option
        annotation = Annotated[kind | None, typer.Option(names, help=self.help + self._default_in_words())]
        return inspect.Parameter(
            self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
        )

    def _default_in_words(self) -> str:
        if self.default is None or isinstance(self.default, bool):
            return ""
        value = ",".join(map(str, self.default)) if isinstance(self.default, tuple) else self.default
        return f" [default: {value}]"

    def read(self, option: str, given: Any) -> Any:
        """The field's value; raises ConfigError for text that is no list of numbers."""
        if not self.annotation.startswith("tuple["):
            return given
        may_be_none = self.annotation.endswith("| None")
        if may_be_none and given == "none":
            return None
        return parse_integers(option, given, f"integers such as 1,2,3,6{', or none' * may_be_none}")


def read_fields(module: str, class_name: str) -> list[Field]:
    """The fields of a dataclass in the order of its source, which is not run."""
    spec = find_spec(module)
    source = spec.loader.get_source(module) if spec and spec.loader else None  # type: ignore[attr-defined]
    (body,) = (
        node.body
        for node in ast.parse(source or "").body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    return [
        Field(line.target.id, ast.unparse(line.annotation), _value(line.value), _docstring(below))
        for line, below in zip(body, [*body[1:], None], strict=True)
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    ]


def _value(default: ast.expr | None) -> Any:
    try:
        return None if default is None else ast.literal_eval(default)
    except ValueError:
        return ast.unparse(default) if default else None


def _docstring(below: ast.stmt | None) -> str:
    if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
        return " ".join(str(below.value.value).split())
    return ""


def options_of(
    module: str, class_name: str, names: Mapping[str, str] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: in place of a command's parameter `given` stand the options of a configuration.

    The command gets a dict of the fields that were given. names: options that are not called as their field.
    """
    options = {
        field: (names or {}).get(field.name, f"--{field.name.replace('_', '-')}")
        for field in read_fields(module, class_name)
    }

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
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
        made = [field.parameter(option) for field, option in options.items()]
        call.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own[:place], *made, *own[place + 1 :]]
        )
        return call

    return decorate
