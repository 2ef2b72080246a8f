"""Imports point down: the order of the packages, held by reading every import there is."""

import ast
from pathlib import Path

import pytest

import sppnet

ROOT = Path(sppnet.__file__).parent

LAYERS = {
    "errors": 0, "geometry": 0, "progress": 0, "drawing": 0, "malloc": 0, "threads": 0, "arrays": 0,
    "destination": 0, "distinct": 0, "jit": 0, "rng": 0, "torch_defaults": 0,
    "ops": 1, "boxes": 1, "structures": 1,
    "nn": 2, "data": 2,
    "features": 3, "proposals": 3, "svm": 3, "heads": 3, "metrics": 3,
    "run_lock": 3,
    "classify": 4, "detect": 4,
    "serve": 5, "label": 5, "export": 5, "engine": 5, "report": 5, "benchmark": 5,
    "training": 5, "evaluation": 5, "demo": 5, "image_vectors": 5,
    "cli": 6, "__main__": 6,
}  # fmt: skip
PACKAGE_LAYER = 5
"""What sppnet/__init__.py may offer under short names."""
DOORS = {
    ("sppnet.classify.classifier", "sppnet.training"),
    ("sppnet.detect.detector", "sppnet.training"),
}
"""Imports that point up and stay: `Classifier.train` and `Detector.train` are short for `sppnet.train` and
`sppnet.train_detector`, which write the report as well. They import when they are called."""
STRANGERS = {frozenset({"nn", "data"}), frozenset({"classify", "detect"})}
"""Packages of one layer that must not know each other."""

Sources = dict[str, str]
"""Text by dotted module name; packages end in .__init__."""


def read_sources() -> Sources:
    paths = sorted(ROOT.rglob("*.py"))
    return {
        ".".join(["sppnet", *path.relative_to(ROOT).with_suffix("").parts]): path.read_text()
        for path in paths
    }


def imported_modules(name: str, sources: Sources) -> set[str]:
    """The modules of the package that a module imports, anywhere in it, or names for `import_module`."""
    found = set()
    for node in ast.walk(ast.parse(sources[name])):
        if isinstance(node, ast.Import):
            found |= {find_module(alias.name, sources) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports name the whole path"
            base = node.module or ""
            found |= {
                find_module(f"{base}.{alias.name}", sources)
                or public_home(f"{base}.{alias.name}")
                or find_module(base, sources)
                for alias in node.names
            }
        elif isinstance(node, ast.Constant) and node.value in sources:
            found.add(node.value)
    return {module for module in found if module}


def public_home(dotted: str) -> str | None:
    """Where a name of the package itself comes from: `from sppnet import train` reads sppnet.training."""
    return sppnet._HOMES.get(dotted.removeprefix("sppnet."))


def find_module(dotted: str, sources: Sources) -> str | None:
    """The module of that name, if it is one of ours, written yet or not; None for other names."""
    for candidate in (dotted, f"{dotted}.__init__"):
        if candidate in sources:
            return candidate
    parent = dotted.rpartition(".")[0]
    unwritten = parent.startswith("sppnet.") and not {parent, f"{parent}.__init__"} & sources.keys()
    return dotted if unwritten else None


def top_name(module: str) -> str:
    return module.split(".")[1]


def layer_of(module: str) -> int:
    if module == "sppnet.__init__":
        return PACKAGE_LAYER
    top = top_name(module)
    assert top in LAYERS, f"{module}: {top!r} has no layer; add it to the table in {Path(__file__).name}"
    return LAYERS[top]


def upward_imports(sources: Sources) -> list[str]:
    """A sentence for every import that does not point down."""
    faults = []
    for name in sources:
        for target in sorted(imported_modules(name, sources) - {"sppnet.__init__"}):
            if (name, target) in DOORS:
                continue
            if layer_of(target) > layer_of(name):
                faults.append(f"{name} (layer {layer_of(name)}) imports {target} (layer {layer_of(target)})")
            elif name != "sppnet.__init__" and frozenset({top_name(name), top_name(target)}) in STRANGERS:
                faults.append(f"{name} imports {target}, of the same layer")
    return faults


def import_cycle(sources: Sources) -> list[str]:
    """Modules that import one another in a ring, or nothing; a package's re-exports count as imports."""
    graph = {name: imported_modules(name, sources) & sources.keys() for name in sources}
    for name, target in DOORS:
        graph.get(name, set()).discard(target)
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        rings = (search(target, [*path, name]) for target in sorted(graph[name]))
        ring = next(filter(None, rings), [])
        done.add(name)
        return ring

    # The package's own file is read through names of its own (sppnet.__version__), which is no ring.
    graph["sppnet.__init__"] = set()
    return next(filter(None, (search(name, []) for name in graph)), [])


def test_imports_point_down():
    assert upward_imports(read_sources()) == []


def test_no_files_import_one_another_in_a_ring():
    assert import_cycle(read_sources()) == []


def test_every_package_has_a_layer():
    for module in read_sources():
        layer_of(module)


HOUSE = {
    "sppnet.__init__": "",
    "sppnet.errors": "",
    "sppnet.geometry.__init__": "",
    "sppnet.geometry.grid": "from sppnet.errors import GeometryError",
    "sppnet.ops.__init__": "from sppnet.ops.pooling import pool as pool",
    "sppnet.ops.pooling": "import numpy\nfrom sppnet.geometry import grid",
    "sppnet.nn.__init__": "",
    "sppnet.nn.pyramid": "from sppnet.ops import pool",
    "sppnet.data.__init__": "",
    "sppnet.data.image": "import sppnet.errors",
    "sppnet.classify.__init__": "",
    "sppnet.classify.train": "from sppnet import nn\nfrom sppnet.data.image import read_image",
}


def test_a_house_in_order_passes():
    assert upward_imports(HOUSE) == []
    assert import_cycle(HOUSE) == []


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        pytest.param(
            "sppnet.ops.pooling",
            "import sppnet.nn.pyramid",
            "(layer 1) imports sppnet.nn.pyramid (layer 2)",
            id="plainly",
        ),
        pytest.param(
            "sppnet.geometry.grid",
            "def f():\n    from sppnet.ops.pooling import pool",
            "(layer 0) imports sppnet.ops.pooling (layer 1)",
            id="inside a function",
        ),
        pytest.param(
            "sppnet.errors",
            "from sppnet import data",
            "imports sppnet.data.__init__ (layer 2)",
            id="a package by name",
        ),
        pytest.param(
            "sppnet.nn.pyramid",
            "if TYPE_CHECKING:\n    from sppnet.data.image import read_image",
            "of the same layer",
            id="between strangers, for types alone",
        ),
        pytest.param(
            "sppnet.ops.pooling", "from sppnet.serve import app", "layer 5", id="from what is not there yet"
        ),
        pytest.param(
            "sppnet.ops.pooling",
            'HOME = "sppnet.data.image"',
            "data.image (layer 2)",
            id="by name, for later",
        ),
        pytest.param(
            "sppnet.classify.train",
            "def f():\n    from sppnet import train",
            "(layer 4) imports sppnet.training (layer 5)",
            id="by a name of the package, when it is called",
        ),
        pytest.param(
            "sppnet.__init__", "from sppnet.cli import main", "layer 6", id="the package from its commands"
        ),
    ],
)
def test_an_upward_import_is_caught(name, text, fault):
    (found,) = upward_imports({**HOUSE, name: text})
    assert fault in found


def test_an_unknown_name_is_asked_for():
    with pytest.raises(AssertionError, match="'utils' has no layer; add it to the table"):
        upward_imports({**HOUSE, "sppnet.utils": "import sppnet.errors"})


def test_a_ring_is_caught():
    ring = {**HOUSE, "sppnet.geometry.boxes": "from sppnet.geometry import grid"}
    ring["sppnet.geometry.grid"] = "def f():\n    from sppnet.geometry.boxes import iou"
    assert set(import_cycle(ring)) == {"sppnet.geometry.boxes", "sppnet.geometry.grid"}
