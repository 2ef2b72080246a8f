"""Memory that a process keeps once it has it.

glibc hands blocks of over 32 MB back to the system as soon as they are freed, and a convolution asks
for a few of them for every image: each time they come back page by page, a page fault each.
"""

import ctypes

# From malloc.h: blocks by mmap at most, what may lie free at the end before it is returned, growth at once.
M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD = -4, -1, -2
SETTINGS = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20))


def keep_memory() -> bool:
    """Let this process keep freed memory for what comes next; False where the C library is not glibc.

    A third of the time of a convolution of a photograph is saved. The whole process stays as large as it
    ever was, which is why only the command line and Ray's processes do this by themselves.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS and musl, …, Windows
        return False
    return all(mallopt(option, value) == 1 for option, value in SETTINGS)
