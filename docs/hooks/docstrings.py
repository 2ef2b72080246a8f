"""Docstrings for the reference: lines that begin with a parameter's name become a list."""

import re

from griffe import Class, Extension, Function


class Parameters(Extension):
    def on_function(self, *, func, **_):
        listed(func, [p.name for p in func.parameters])

    def on_class(self, *, cls, **_):
        listed(cls, [])

    def on_class_members(self, *, cls, **_):
        names = [p.name for p in cls.members["__init__"].parameters] if "__init__" in cls.members else []
        listed(cls, names)


def listed(thing: Function | Class, names: list[str]) -> None:
    """Rewrite its docstring's text in place."""
    if thing.docstring is None or not names:
        return
    words = "|".join(map(re.escape, names))
    lines, inside = [], False
    for line in thing.docstring.value.splitlines():
        start = re.match(rf"((?:{words})(?:, (?:{words}))*): ", line)
        if start:
            lines += ["", f"- `{start[1]}`: {line[start.end() :]}"]
            inside = True
        elif inside and re.match(r"[A-Z]", line):  # a sentence of its own ends the list
            lines += ["", line]
            inside = False
        else:
            inside = inside and bool(line.strip())
            lines.append(f"  {line.strip()}" if inside else line)
    thing.docstring.value = "\n".join(lines)
