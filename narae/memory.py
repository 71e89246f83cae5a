"""Memory of a training process on a CPU stays with it between steps.

glibc gives every large block back to the system as soon as it is free, and gets it again filled with zeros, page by
page: an eighth of the processor time of a step of 4,096 tokens. A step takes the same blocks as the one before.
"""

import ctypes
import os
import sys

MMAP_MAX, TRIM_THRESHOLD = -4, -1  # of mallopt
NEVER = -1  # any number of bytes that mallopt takes is below 2 GiB


def keep_memory() -> bool:
    """Whether it was done: not where the environment has settings of its own, nor with another C library."""
    if sys.platform != "linux" or any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, NEVER))
