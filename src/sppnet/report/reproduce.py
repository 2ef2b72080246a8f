"""A call in Python, as one would write it: what the page of a run shows as its command."""

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


class Name(str):
    """A variable: what it holds is too long to write."""


def in_python(name: str, *given: Any, **options: Any) -> str:
    """sppnet.train('photos', 'runs/photos', sppnet.TrainingConfig(sizes='96'), resume=True).

    Options that are None or False are left out: they are what nobody asked for.
    """
    asked = {key: value for key, value in options.items() if value is not None and value is not False}
    return _call(name, [*map(_in_words, given), *_named(asked)])


def _in_words(value: Any) -> str:
    if isinstance(value, Name):
        return str(value)
    if is_dataclass(value) and hasattr(value, "to_json"):
        return _call(f"sppnet.{type(value).__name__}", _named(_changed(value)))
    return repr(str(value)) if isinstance(value, str | Path) else repr(value)


def _changed(config: Any) -> dict[str, Any]:
    """The fields that make this configuration again. One that is left open may depend on another."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    changed: dict[str, Any] = {}
    while (made := type(config)(**changed)) != config:
        changed |= {name: value for name, value in values.items() if value != getattr(made, name)}
    return {name: value for name, value in values.items() if name in changed}


def _named(values: dict[str, Any]) -> list[str]:
    return [f"{name}={_in_words(value)}" for name, value in values.items()]


def _call(name: str, words: list[str]) -> str:
    return f"{name}({', '.join(words)})"
