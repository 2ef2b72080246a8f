"""A measurement in a process of its own, whose memory is nobody else's."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_in_subprocess(module: str, *words: str) -> dict[str, Any]:
    """What `python -m module words…` prints last, read as JSON; raises RuntimeError with its last words."""
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(words[:2])} failed: {done.stderr.strip()[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def peak_bytes() -> int:
    """The most memory this process has held, libraries included."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status = Path("/proc/self/status")
    if status.exists():  # there ru_maxrss begins at that of the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        peak = int(line.split()[1])
    return peak * (1 if sys.platform == "darwin" else 1024)
