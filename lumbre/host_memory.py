"""Whether a CPU's freed memory stays with the process.

glibc gives large blocks back to the system as they are freed, and a training step takes the same ones again:
the system then clears them and maps them page by page (python -m benchmarks.gains steps has what that costs).
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""
NEVER = -1
LARGEST = 2**29
"""Of larger blocks, such as DeepSpeed's buffers of gigabytes, little is ever touched; in a heap others would
touch all of it in the end."""


def keep_freed() -> bool:
    """Keep blocks of up to 512 MiB for whoever asks next, from here on; return whether this C library can."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, NEVER))
