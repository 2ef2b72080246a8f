"""`sppnet`, several commands in turn on one Ray, which is started once. For test_ray.py.

Its arguments are a file for the exit codes and a JSON list of commands, each a list of words. The one word
"broken" asks for work with a model that no worker can read.
"""

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

from sppnet.cli.app import main
from sppnet.engine.batch import run_on_ray
from sppnet.engine.cluster import joined
from sppnet.engine.work import Detecting
from sppnet.progress import NullProgress

told, commands = sys.argv[1], json.loads(sys.argv[2])
codes = []
with joined(), redirect_stdout(sys.__stdout__):
    for words in commands:
        sys.argv = ["sppnet", *words]
        try:
            if words == ["broken"]:
                run_on_ray(Detecting(("gone.model",), 0), [Path("a")], Path("b"), "cpu", "x", NullProgress())
            main()
            codes.append(0)
        except SystemExit as ended:
            codes.append(ended.code)
        except Exception as error:
            codes.append(f"{type(error).__name__}: {error}")
Path(told).write_text(json.dumps(codes))
