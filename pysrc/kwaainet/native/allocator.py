"""Memory of a process that serves many: what was freed stays with it, up to a bound, for what comes next,
and garbage is looked for seldom.

Follows mallopt(3). glibc gives the end of its heap back once 128 kB of it are free, and takes large blocks
from the system one by one: a relay, which holds a quarter of a megabyte for as long as it takes to send it,
would have the system clear the same pages for each. Rule of the file: a C library that has no such setting
is left as it is.
"""

from __future__ import annotations

import ctypes
import gc

FREE_KEPT = 16 << 20  # bytes at the end of the heap; a few of a relay's busiest circuits' windows
LARGE = 4 << 20  # bytes from which a block is the system's, and goes back to it when it is freed
NEW_OBJECTS = 20_000  # until cycles among them are looked for; else 700, as many as a few connections have
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # in malloc.h


def keep_freed_memory() -> bool:
    """For the whole process, from now on; whether its C library took it."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # TypeError: on Windows there is no library without a name
        return False
    return bool(mallopt(_TRIM_THRESHOLD, FREE_KEPT) and mallopt(_MMAP_THRESHOLD, LARGE))


def collect_seldom() -> None:
    """From now on, and never again among what the process has begun with."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS, *gc.get_threshold()[1:])
