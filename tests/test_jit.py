"""Functions that only compiled ones may call: from Python they would crash the process."""

import ast
from pathlib import Path

from sppnet import jit

ROOT = Path(__file__).parents[1]
FILES = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").glob("*.py")]


def decorators(function: ast.FunctionDef) -> set[str]:
    calls = [one.func if isinstance(one, ast.Call) else one for one in function.decorator_list]
    return {one.id for one in calls if isinstance(one, ast.Name)}


def is_compiled(node: ast.AST) -> bool:
    names = {"jit", "compiled", "compiled_parallel", "inner", "inner_sum"}
    return isinstance(node, ast.FunctionDef) and bool(decorators(node) & names)


def inner_functions() -> dict[str, set[str]]:
    """Of each module that has any."""
    found: dict[str, set[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and decorators(node) & {"inner", "inner_sum"}:
                found.setdefault(".".join(path.with_suffix("").parts[-2:]), set()).add(node.name)
    return found


def called_from_python(path: Path, inner: dict[str, set[str]]) -> set[str]:
    """Inner functions that this file names outside of compiled functions."""
    tree = ast.parse(path.read_text())
    names = set(inner.get(".".join(path.with_suffix("").parts[-2:]), ()))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            known = inner.get(".".join(node.module.split(".")[-2:]), set())
            names |= {one.asname or one.name for one in node.names if one.name in known}
    found: set[str] = set()

    def look(node: ast.AST) -> None:
        if isinstance(node, ast.Name) and node.id in names:
            found.add(node.id)
        for child in ast.iter_child_nodes(node):
            if not is_compiled(child):
                look(child)

    look(tree)
    return found


def test_no_inner_function_is_called_from_python():
    inner = inner_functions()
    assert {"ops.numba_impl", "svm.row_kernels", "selective_search.grouping"} <= inner.keys()
    for path in FILES:
        assert not called_from_python(path, inner), path


def test_a_call_from_python_is_seen(tmp_path):
    path = tmp_path / "somewhere.py"
    path.write_text(
        "from sppnet.ops.blocks import aligned as room\nfrom sppnet.jit import inner\n"
        "@inner\ndef of_another():\n    return room(1, 2)\n\ndef own():\n    return room(1, 2)\n"
    )
    assert called_from_python(path, {"ops.blocks": {"aligned"}}) == {"room"}


def test_inner_functions_run_as_python_where_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(jit, "problem", lambda: "switched off")
    assert jit.jit(no_cpython_wrapper=True)(int.__add__) is int.__add__
