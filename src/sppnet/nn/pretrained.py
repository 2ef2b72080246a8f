"""Published ImageNet weights, from the cache of torch or of Hugging Face, or downloaded into it once."""

import hashlib
import logging
import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor

from sppnet.errors import ModelError
from sppnet.nn import connection
from sppnet.nn.published_url import no_hub_weights, no_weights
from sppnet.nn.weights import read_weights

logger = logging.getLogger(__name__)


def published_weights(url: str) -> dict[str, Tensor]:
    """The tensors of a published file. Raises ModelError, which says where the file should be."""
    path = published_file(url)
    try:
        return read_weights(path)
    except ModelError as error:
        raise ModelError(
            f"the weights in torch's cache are damaged: delete {path} and run this again, to download them "
            f"anew ({error})"
        ) from error


def published_file(url: str) -> Path:
    """Where a published file lies, downloaded if it is not there; raises as `published_weights`."""
    path = _place_of(url)
    if not path.is_file():
        _download(url, path)
    return path


def is_here(url: str) -> bool:
    """Whether a published file was downloaded before."""
    try:
        return _place_of(url).is_file()
    except ModelError:
        return False


def _place_of(url: str) -> Path:
    return _cache_folder() / Path(urlparse(url).path).name


def _cache_folder() -> Path:
    folder = Path(torch.hub.get_dir(), "checkpoints")
    if not folder.is_absolute():  # "~/…", where there is no home
        raise ModelError(
            "no folder for downloaded weights: neither TORCH_HOME nor HOME is set; set TORCH_HOME to a "
            "folder that can be written, or pass a weights file"
        )
    return folder


def _download(url: str, path: Path) -> None:
    """Into a file beside it, which takes its name when it is whole."""
    answer = _ask(url, path)
    digest = hashlib.sha256()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with answer, tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = Path(file.name)
            try:
                while block := answer.read(1 << 20):
                    digest.update(block)
                    file.write(block)
                file.close()
                _check_hash(url, path, digest.hexdigest())
                part.replace(path)
                logger.warning("downloaded %s to %s; its SHA-256 is %s", url, path, digest.hexdigest())
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:  # among them what is raised of a connection
        raise ModelError(
            f"{url} could not be downloaded to {path}: {error}. Run this again; or set TORCH_HOME to a "
            "folder that can be written; or pass a weights file"
        ) from error


def _ask(url: str, path: Path) -> Any:
    """The server's answer, whose body is not read yet."""
    answer = connection.request_url(url)
    if isinstance(answer, Exception):
        raise ModelError(no_weights(url, path, answer)) from answer
    return answer


def _check_hash(url: str, path: Path, digest: str) -> None:
    expected = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if expected and not digest.startswith(expected[1]):
        raise ModelError(
            f"what {url} sent is not the file it names: its SHA-256 begins with {digest[:8]} where "
            f"{expected[1]} was expected. A proxy may have sent a page of its own; download it elsewhere and "
            f"copy it to {path}"
        )


# --- timm's weights ------------------------------------------------------------------------------


def find_timm_weights(published: Any) -> dict[str, str]:
    """The cached file of a timm network's weights, {"file": path}; {} where timm has to download them.

    published: the network's `pretrained_cfg`. A cached file is taken without asking the server. Raises
    ModelError where there is none and the server does not answer: timm would ask it for a minute.
    """
    if not published.hf_hub_id:  # timm finds these in torch's cache itself
        if (
            published.url
            and not (path := _cache_folder() / Path(urlparse(published.url).path).name).is_file()
        ):
            _ask(published.url, path).close()
        return {}
    import huggingface_hub as hub

    repository, _, revision = published.hf_hub_id.partition("@")
    name = published.hf_hub_filename or "pytorch_model.bin"
    for file in (name.replace("pytorch_model.bin", "model.safetensors"), name):
        cached = hub.try_to_load_from_cache(repository, file, revision=revision or None)
        if isinstance(cached, str):
            return {"file": cached}
    url = hub.hf_hub_url(repository, name, revision=revision or None)
    answer = connection.first_answer(lambda: hub.get_hf_file_metadata(url, timeout=connection.ANSWER_SECONDS))
    if isinstance(answer, Exception) and not isinstance(answer, hub.errors.HfHubHTTPError):
        raise ModelError(
            no_hub_weights(repository, Path(hub.constants.HF_HUB_CACHE), url, answer)
        ) from answer
    return {}
