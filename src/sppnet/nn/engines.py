"""What runs the frozen body of a trunk: torch, or onnxruntime, which needs half the time on a CPU.

Both compute in float32, and their maps differ by rounding; those of a trunk that was quantised, which runs in
onnxruntime with 8-bit numbers, differ by more (`quantise_trunk`).
"""

from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn

from sppnet.errors import ConfigError, ModelError
from sppnet.nn.fusion import fuse_conv_bn
from sppnet.nn.onnx_session import SharedSession
from sppnet.nn.onnx_translation import translate_body
from sppnet.nn.trunks import Trunk, as_maps

Engine = Literal["auto", "torch", "onnx", "int8"]

CHECK_HW = (161, 203)
"""Size of the image on which both must agree: odd, so that windows hang over the borders."""

TOLERANCE = 1e-4
"""Largest difference, as a share of the largest number. Rounding makes 1e-6 of it, in half precision 1e-3."""


class TorchEngine:
    """A body in torch, on any device; maps come to the CPU."""

    name = "torch"

    def __init__(self, body: nn.Module, device: torch.device, reason: str) -> None:
        """reason: why it is not another engine."""
        self.body, self.device, self.reason = body, device, reason

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: (b, 3, h, w), normalised → a map (b, channels, h', w') for each tap."""
        given = images.to(self.device, memory_format=torch.channels_last)
        return tuple(maps.cpu().contiguous() for maps in as_maps(self.body(given)))


class OnnxEngine:
    """A body in onnxruntime, on the CPU, for any thread."""

    def __init__(self, content: bytes, name: Literal["onnx", "int8"] = "onnx") -> None:
        """content: of an ONNX file, as `translate_body` makes it, or `quantise`."""
        self._session, self.name = SharedSession(content), name
        agrees = "onnxruntime is installed, and agrees with torch"
        self.reason = "it was asked for" if name == "int8" else agrees

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: (b, 3, h, w), normalised → a map (b, channels, h', w') for each tap."""
        outputs = self._session.run(images.float().contiguous().numpy())
        return tuple(map(torch.from_numpy, outputs.values()))


AnyEngine = TorchEngine | OnnxEngine


def make_engine(body: nn.Module, device: torch.device, wanted: Engine = "auto") -> AnyEngine:
    """What runs `body`, in evaluation mode; "auto" is onnxruntime where it is installed and can.

    Raises ConfigError where what is wanted cannot be had.
    """
    problem = missing_for_onnx(device)
    if wanted != "torch" and problem is None:
        try:
            return _checked_engine(body)
        except ModelError as error:
            problem = str(error)
    if wanted == "onnx":
        raise ConfigError(f"--engine onnx cannot run this trunk: {problem}. Leave --engine at auto")
    return TorchEngine(body, device, "it was asked for" if problem is None else problem)


def engine_of(trunk: Trunk, body: nn.Module, wanted: Engine = "auto") -> AnyEngine:
    """What runs a trunk; body: its own with batch norms folded.

    A quantised trunk runs as it was quantised, or in float32 on a GPU and without onnxruntime: detectors find
    as much.
    Raises ConfigError as `make_engine`.
    """
    device = next(trunk.parameters()).device
    if trunk.int8 is not None:
        if problem := missing_for_onnx(device):
            return TorchEngine(body, device, f"not in 8 bits: {problem}")
        return OnnxEngine(trunk.int8.cpu().numpy().tobytes(), "int8")
    if wanted == "int8":
        raise ConfigError(
            "the engine int8 needs a quantised trunk, which detect train makes of one from its photographs"
        )
    return make_engine(body, device, wanted)


class EngineBody(nn.Module):
    """The body of a trunk on the CPU that learns no more, run by an engine."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.grids = [(tap.grid, tap.channels) for tap in trunk.taps]
        self.engine = make_engine(fuse_conv_bn(trunk.body), torch.device("cpu"))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """images: (b, 3, h, w), normalised → a map (b, channels, h', w') for each tap."""
        return self.engine(images)


def missing_for_onnx(device: torch.device) -> str | None:
    """Why onnxruntime runs no trunk on this device; None where it does."""
    if device.type != "cpu":
        return f"onnxruntime runs trunks on the CPU, and this one is on {device}"
    missing = [package for package in ("onnx", "onnxruntime") if find_spec(package) is None]
    if missing:
        return f"{' and '.join(missing)} not installed: pip install 'sppnet[onnx]' halves the time"
    return None


@torch.inference_mode()
def _checked_engine(body: nn.Module) -> OnnxEngine:
    """Raises ModelError for a body that cannot be translated, or whose translation is another function."""
    engine = OnnxEngine(translate_body(body))
    images = torch.randn(1, 3, *CHECK_HW, generator=torch.Generator().manual_seed(0))
    for expected, found in zip(as_maps(body(images)), engine(images), strict=True):
        if expected.shape != found.shape or not _agree(expected, found):
            raise ModelError("onnxruntime's maps differ from torch's")
    return engine


def _agree(expected: Tensor, found: Tensor) -> bool:
    largest = float(expected.abs().max())
    return bool((expected - found).abs().max() <= TOLERANCE * max(largest, 1e-12))
