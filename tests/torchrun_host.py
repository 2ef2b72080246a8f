"""`sppnet`, several commands in turn, in a process of torchrun's that kills itself. For test_torchrun.py.

Its argument is a JSON list of commands, each a list of words. KILLS in the environment: a JSON list of
[start of the group, rank, step of SGD, counted from that start on].
"""

import json
import os
import signal
import sys
from itertools import count

from sppnet.classify.sgd import Trainer
from sppnet.cli.app import main

START = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
STEPS = {step for start, rank, step in json.loads(os.environ["KILLS"])
         if (start, rank) == (START, int(os.environ["RANK"]))}  # fmt: skip

step_of_sgd, steps = Trainer._step, count(1)


def counted(trainer, batch, images):
    if next(steps) in STEPS:
        os.kill(os.getpid(), signal.SIGKILL)
    return step_of_sgd(trainer, batch, images)


Trainer._step = counted
for words in json.loads(sys.argv[1]):
    sys.argv = ["sppnet", *words]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
