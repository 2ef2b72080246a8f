"""What `import sppnet` offers: a golden list, each name importable, and none of torch until one is used."""

import subprocess
import sys

import pytest

import sppnet
from models import model_bytes

# A name added or taken away here is a change that users see: it belongs into the release notes.
PUBLIC = [
    "CellGrid",
    "Classifier",
    "Detections",
    "Detector",
    "DetectorConfig",
    "Ensemble",
    "FeatureMaps",
    "Prediction",
    "Proposals",
    "SPPFeatures",
    "SPPNet",
    "SpatialPyramidPooling",
    "SppnetError",
    "TrainingConfig",
    "Trunk",
    "__version__",
    "add_classes",
    "bin_edges",
    "boxes_to_cells",
    "evaluate",
    "evaluate_detector",
    "keep_memory",
    "load_trunk",
    "open_annotated",
    "pyramid_pool",
    "read_image",
    "selective_search",
    "train",
    "train_detector",
    "warm_start_fc6",
]


def test_the_public_names_are_these():
    assert sorted(sppnet.__all__) == PUBLIC
    assert dir(sppnet) == PUBLIC


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_every_public_name_is_a_documented_thing_of_this_package(name):
    thing = getattr(sppnet, name)
    assert thing.__name__ == name
    assert thing.__module__.startswith("sppnet.")
    assert thing.__doc__


def test_the_names_for_type_checkers_are_the_names_at_run_time():
    """Those under TYPE_CHECKING are written out by hand beside the table that is used."""
    import ast
    from pathlib import Path

    tree = ast.parse(Path(sppnet.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    for_checkers = {alias.name: line.module for line in block.body for alias in line.names}
    assert for_checkers == sppnet._HOMES


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(AttributeError, match="no attribute 'Classifer'; did you mean Classifier"):
        _ = sppnet.Classifer


def test_import_is_instant():
    code = (
        "import sys, sppnet; dir(sppnet); sppnet.__version__; sppnet.SppnetError; sppnet.bin_edges;"
        "heavy = {'torch', 'torchvision', 'numba', 'PIL', 'typer', 'rich', 'matplotlib'} & set(sys.modules);"
        "print(sorted(heavy))"
    )
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout.strip(), found.stderr) == (0, "[]", "")


def test_predictions_wait_for_no_compiler_of_torch(tmp_path):
    """torchvision brings it, and much of torch's own Python; its import takes longer than all else."""
    for kind in ("classifier", "detector"):
        model_bytes(kind, tmp_path)
    code = (
        "import sys, numpy, sppnet, sppnet.training, sppnet.evaluation\n"
        "image = numpy.zeros((60, 80, 3), numpy.uint8)\n"
        f"sppnet.Classifier.load({str(tmp_path / 'classifier.safetensors')!r})(image)\n"
        f"sppnet.Detector.load({str(tmp_path / 'detector.safetensors')!r})(image)\n"
        "sppnet.load_trunk('efficientnet_lite0').spec\n"
        "print(sorted({'torchvision', 'torch._dynamo'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout.strip()) == (0, "[]"), found.stderr
