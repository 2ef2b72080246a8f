"""Training a detector from what is labelled: the command of the package in a process of its own."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from sppnet.errors import DataError
from sppnet.label.store import Store
from sppnet.nn.model_file import write_file

OUT = "sppnet-detector"
"""Name of the run folders, beside the photographs' folder."""

LINES = 60
"""Of what the training says, kept."""


class TrainingJob:
    """At most one at a time. The page asks how it goes."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.out: Path | None = None
        self.lines: list[str] = []
        self.code: int | None = None
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        """Until its exit code is known: the page asks no more once a training neither runs nor has ended."""
        return self._process is not None and self.code is None

    def start(self) -> None:
        """On the confirmed photographs as they are now. Raises DataError where there are none, or it runs."""
        with self._lock:
            if self.running:
                raise DataError("a training is running already; let it end, or stop it")
            done = [photo for photo in sorted(self.store.done()) if self.store.sheet(photo).boxes]
            if not done:
                raise DataError("no photograph with boxes is confirmed yet; confirm some first")
            self.out = self._new_folder()
            data = self.out.with_name(f"{self.out.name}-data")
            write_snapshot(self.store, sorted(self.store.done()), data)
            self._process, self.lines, self.code = None, [], None
            words = [sys.executable, "-m", "sppnet", "detect", "train", str(data), "--out", str(self.out)]
            self._process = subprocess.Popen(
                words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                env={**os.environ, "COLUMNS": "120"},
            )  # fmt: skip
        threading.Thread(target=self._follow, args=(self._process,), daemon=True).start()

    def stop(self) -> None:
        if self._process is not None and self.running:
            self._process.terminate()
            self._process.wait()

    def describe(self) -> dict[str, Any]:
        model = None if self.out is None else self.out / "detector.safetensors"
        report = None if self.out is None else self.out / "report.html"
        ended = self.code == 0
        return {
            "running": self.running, "ended": ended, "failed": self.code not in (None, 0),
            "lines": self.lines[-LINES:], "out": None if self.out is None else str(self.out),
            "model": str(model) if ended and model and model.is_file() else None,
            "report": bool(ended and report and report.is_file()),
        }  # fmt: skip

    def _follow(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip())
                del self.lines[:-LINES]
        self.code = process.wait()

    def _new_folder(self) -> Path:
        parent, number = self.store.root.parent, 1
        while (parent / f"{self.store.root.name}-{OUT}-{number}").exists():
            number += 1
        return parent / f"{self.store.root.name}-{OUT}-{number}"


def write_snapshot(store: Store, photos: list[int], folder: Path) -> None:
    """The confirmed photographs as a COCO data set of links: labelling goes on while a training reads it.

    Raises OSError where the folder cannot be written to.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    pictures = folder / "images"
    pictures.mkdir(parents=True)
    for number, photo in enumerate(photos, 1):
        path, (height, width) = store.paths[photo], store.header(photo).size_hw
        link = pictures / f"{number:05d}{path.suffix.lower()}"
        link.symlink_to(path)
        images.append({"id": number, "file_name": link.name, "width": width, "height": height})
        for box in store.sheet(photo).boxes:
            x0, y0, x1, y1 = box.box
            annotations.append({
                "id": len(annotations) + 1, "image_id": number,
                "category_id": store.classes.index(box.name) + 1,
                "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": int(box.crowd),
                "ignore": int(box.difficult),
            })  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(store.classes, 1)]
    data = {"images": images, "annotations": annotations, "categories": categories}
    write_file(folder / "annotations" / "instances.json", json.dumps(data).encode())
