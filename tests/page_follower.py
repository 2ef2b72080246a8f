"""Does what a page says: its commands, its snippets in one session, as a reader would, in one process.

    python page_follower.py STEPS.json

STEPS.json: [{"page", "kind": "console" or "python", "text"}, …]. A step's result is a line of JSON on
the real standard output: {"code", "out", "err", "seconds"}.
"""

import contextlib
import io
import json
import runpy
import shlex
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any


def command(text: str) -> int:
    """The exit code of `sppnet …` or `python FILE …`."""
    program, *words = shlex.split(text)
    try:
        if program == "python":
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        else:
            from sppnet.cli import main

            sys.argv = ["sppnet", *words]
            main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except Exception:  # so that the steps after it have their results
        traceback.print_exc()
        return 1
    return 0


def snippet(text: str, names: dict[str, Any]) -> int:
    """0, or 1 with the error on standard error. Warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            exec(compile(text, "<page>", "exec"), names)
        except Exception:
            traceback.print_exc()
            return 1
    return 0


def main(path: str) -> None:
    real, page, names = sys.stdout, None, dict[str, Any]()
    for step in json.loads(Path(path).read_text()):
        if step["page"] != page:
            page, names = step["page"], {"__name__": "__main__"}
        started = time.perf_counter()
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = snippet(step["text"], names) if step["kind"] == "python" else command(step["text"])
        seconds = round(time.perf_counter() - started, 1)
        result = {"code": code, "out": out.getvalue(), "err": err.getvalue(), "seconds": seconds}
        print(json.dumps(result), file=real, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
