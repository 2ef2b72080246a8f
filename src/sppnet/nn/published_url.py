"""Addresses of published weights, found without importing torch or torchvision, which takes seconds."""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from sppnet.errors import ModelError
from sppnet.nn.connection import first_answer, unreachable

PROBE_SECONDS = 3
"""A command that has to download says within five seconds of its start that it cannot."""
YOLOX_RELEASE = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0"


def check_reachable(trunk: str, weights: str | None) -> None:
    """Raises ModelError where weights must be downloaded and their server does not answer.

    It may let through what the download itself refuses later: a trunk that is not known here.
    """
    if weights == "imagenet" and trunk.startswith("timm:"):
        _check_hub(trunk.removeprefix("timm:"))
    elif weights in ("imagenet", "coco") and (url := published_url(trunk, weights)):
        path = _torch_cache() / Path(urlparse(url).path).name
        if path.is_absolute() and not path.is_file() and (error := _silence(url)):
            raise ModelError(no_weights(url, path, error))


def _check_hub(name: str) -> None:
    """Of Hugging Face, unless any weights of that network are in its cache."""
    cache = _hub_cache()
    if find_spec("timm") is None or os.getenv("HF_HUB_OFFLINE") or any(cache.glob(f"models--timm--{name}*")):
        return
    url = os.getenv("HF_ENDPOINT", "https://huggingface.co")
    if error := _silence(url):
        raise ModelError(no_hub_weights(f"timm/{name}", cache, url, error))


def no_weights(url: str, path: Path, error: Exception) -> str:
    """What is said where a file is neither in the cache nor to be had."""
    return (
        f"no weights at {path}, and {unreachable(url, error)}; or download {url} elsewhere and copy it "
        f"to {path}; or pass a weights file"
    )


def no_hub_weights(repository: str, cache: Path, url: str, error: Exception) -> str:
    """The same of Hugging Face's cache."""
    return (
        f"no weights of {repository} in {cache}, and {unreachable(url, error)}; or set HF_HUB_CACHE to "
        "a cache that has them; or pass a weights file"
    )


def published_url(trunk: str, weights: str) -> str | None:
    """Where torchvision's or YOLOX's weights of a trunk are published; None of others."""
    name = trunk.partition(":")[0]
    if weights == "coco" and name.startswith("yolox_"):
        return f"{YOLOX_RELEASE}/{name}.onnx"
    return _torchvision_url(name)


def _torchvision_url(name: str) -> str | None:
    """Read as text out of the classes of torchvision's sources, MobileNet_V2_Weights for mobilenet_v2."""
    spec = find_spec("torchvision")
    models = Path(spec.origin).parent / "models" if spec and spec.origin else Path()
    for file in (*models.glob("*.py"), *models.glob("detection/*.py")):
        for body in re.split(r"^class ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            if body.partition("(")[0].lower() == f"{name}_weights":
                return _default_url(body)
    return None


def _default_url(body: str) -> str | None:
    default = re.search(r"^    DEFAULT = (\w+)", body, re.MULTILINE)
    if default is None:
        return None
    url = re.search(rf'^    {default[1]} = Weights\([^=]*?url="([^"]+)"', body, re.MULTILINE)
    return url[1] if url else None


def _torch_cache() -> Path:
    """As torch.hub has it, asked itself where it is imported already."""
    if "torch" in sys.modules:
        return Path(sys.modules["torch"].hub.get_dir(), "checkpoints")
    return Path(_folder("TORCH_HOME", f"{_folder('XDG_CACHE_HOME', '~/.cache')}/torch"), "hub", "checkpoints")


def _hub_cache() -> Path:
    home = _folder("HF_HOME", f"{_folder('XDG_CACHE_HOME', '~/.cache')}/huggingface")
    return Path(_folder("HF_HUB_CACHE", f"{home}/hub"))


def _folder(variable: str, default: str) -> str:
    return os.path.expanduser(os.getenv(variable, default))


def _silence(url: str) -> Exception | None:
    """Why a server gave no answer; None if it gave any."""
    request = Request(url, headers={"User-Agent": "sppnet"}, method="HEAD")
    answer = first_answer(lambda: urlopen(request, timeout=PROBE_SECONDS).close(), PROBE_SECONDS)
    return answer if isinstance(answer, Exception) and not isinstance(answer, HTTPError) else None
