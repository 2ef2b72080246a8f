"""Trains in children of its own and kills them. A script of test_crash.py: torch is imported once, not a
hundred times.

Reads jobs from standard input, a JSON object a line, and answers each with its exit code and its seconds.
A job trains by the functions ("classify", "detect") or runs a command ("command"), and may end early:
after "seconds", at the "write" of that number, before or "after" the file takes its place, or by "signal"
once the file "once" is there. "limit": the bytes that a file may have, for a disk that is full.
"""

import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sppnet.classify.config import TrainingConfig
from sppnet.classify.train import train
from sppnet.cli.app import main
from sppnet.detect.config import DetectorConfig
from sppnet.detect.train import train_detector
from sppnet.nn import model_file

Job = dict[str, Any]


def work(job: Job) -> None:
    kind = job["kind"]
    if kind == "command":
        sys.argv = ["sppnet", *job["words"]]
        main()
    elif kind == "classify":
        train(job["data"], job["out"], TrainingConfig(**job["config"]), resume=True)
    else:
        config = {name: tuple(v) if isinstance(v, list) else v for name, v in job["config"].items()}
        train_detector(
            job["data"], job["out"], DetectorConfig(**config), resume=True, cache=Path(job["cache"])
        )


def count_writes(job: Job) -> list[int]:
    """[how many files were written]; the process is killed at the one that the job names."""
    replace, count = os.replace, [0]

    def counted(source: str, target: str) -> None:
        count[0] += 1
        mine = count[0] == job.get("write")
        if mine and not job["after"]:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if mine:
            os.kill(os.getpid(), signal.SIGKILL)

    model_file.os.replace = counted
    return count


def child(job: Job, log: str) -> None:
    """Never returns."""
    code = 0
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    count = count_writes(job)
    if "limit" in job:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], resource.RLIM_INFINITY))
    try:
        work(job)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    print(f"writes {count[0]}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def answer(job: Job) -> Job:
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(job, job["log"])
    if "seconds" in job:
        sleep_until(lambda: time.monotonic() - started > job["seconds"] or has_ended(pid))
        os.kill(pid, signal.SIGKILL)
    if "signal" in job:
        sleep_until(Path(job["once"]).exists)
        os.kill(pid, job["signal"])
    _, status = os.waitpid(pid, 0)
    return {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started}


def sleep_until(happened: Callable[[], bool]) -> None:
    while not happened():
        time.sleep(0.002)


def has_ended(pid: int) -> bool:
    """Its exit code still waits to be taken, so its number is nobody else's yet."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


if __name__ == "__main__":
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
