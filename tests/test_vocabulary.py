"""Names that were replaced by the field's standard terms stay away."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sppnet

ROOT = Path(sppnet.__file__).parent

FILES = [
    "data/marks",
    "data/annotated",
    "data/check_marks",
    "proposals/lessons",
    "proposals/learned",
    "proposals/given",
    "detect/balance",
    "detect/tune",
    "detect/regress",
    "detect/examples",
    "detect/vectors",
    "learn",
    "ops/anywhere",
    "ops/definition",
    "ops/suppression",
    "ops/memory",
    "ops/lanes",
    "heap",
    "runs",
    "classify/board",
    "classify/workers",
    "classify/linear",
    "serve/seer",
    "serve/shelf",
    "serve/counts",
    "serve/listen",
    "benchmark/apart",
    "benchmark/floor",
    "benchmark/rows",
    "report/call",
    "report/outcome",
    "engine/parts",
]

NAMES = [
    "Convolver",
    "Photo",
    "Vectoriser",
    "BoxVectors",
    "Windows",
    "WindowHead",
    "glance",
    "quick",
    "Parts",
    "judge",
    "suppress",
    "overlaps",
    "areas",
    "in_order",
    "Silent",
    "counted",
    "held",
    "folded",
    "Lesson",
    "Mark",
    "Reading",
    "told",
    "how",
    "looks",
    "SeveralStages",
    "max_sweeps",
    "bias_multiplier",
    "positive_weight",
    "most",
    "redundant",
    "enough",
]
"""Of classes, functions and parameters."""

PREFIXES = ("MOST_", "LEAST_")

OPTIONS = ("--most", "--redundant", "--rule", "--layer", "--truth", "--view")


def defined_names(tree: ast.Module) -> Iterator[str]:
    """Names of classes, functions and parameters, fields of classes, and constants of the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        if isinstance(node, ast.arg):
            yield node.arg
        if isinstance(node, ast.ClassDef | ast.Module):
            for line in node.body:
                targets = [line.target] if isinstance(line, ast.AnnAssign) else getattr(line, "targets", [])
                yield from (target.id for target in targets if isinstance(target, ast.Name))


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_names_are_standard_terms(path):
    names = set(defined_names(ast.parse(path.read_text())))
    replaced = {name for name in names if name in NAMES or name.startswith(PREFIXES)}
    assert replaced == set()


def test_files_are_named_by_standard_terms():
    files = [path.relative_to(ROOT) for path in ROOT.rglob("*.py")]
    there = {str(path.with_suffix("")) for path in files} | {str(path.parent) for path in files}
    assert there & set(FILES) == set()


@pytest.mark.parametrize("option", OPTIONS)
def test_replaced_options_are_gone(option):
    root = ROOT.parent.parent
    pages = [*ROOT.rglob("*.py"), *(root / "docs").rglob("*.md"), *root.glob("README*.md")]
    found = [path.name for path in pages if re.search(rf"(?<![\w-]){option}(?![\w-])", path.read_text())]
    assert found == []
