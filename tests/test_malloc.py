"""Freed memory that stays with the process."""

import ctypes
import platform
import subprocess
import sys

import pytest

import sppnet.malloc
from sppnet.malloc import keep_memory

FAULTS = """
import resource, sys
import numpy as np
from sppnet import keep_memory
kept = keep_memory() if sys.argv[1] == "kept" else None
def block():
    np.empty(40 << 20, np.uint8)[:: 4096] = 1
block()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    block()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> tuple[str, int]:
    """What `keep_memory` said, and page faults of five blocks of 40 MB after one such."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_a_large_block_costs_page_faults_once():
    assert faults("kept")[0] == "True"
    assert faults("kept")[1] < 20
    # Pages of 2 MB, which numpy asks for, are 20 a block; plain ones 10,240.
    assert faults("as it is")[1] >= 100


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_another_c_library_is_left_alone(monkeypatch, error):
    def library(name):
        raise error

    monkeypatch.setattr(sppnet.malloc, "ctypes", type("Ctypes", (), {"CDLL": staticmethod(library)}))
    assert keep_memory() is False


def test_a_setting_that_is_refused_is_told(monkeypatch):
    class Refusing:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            return 0

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Refusing)
    assert keep_memory() is False
