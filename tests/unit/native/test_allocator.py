"""Memory stays with the process where the C library can be told so."""

import ctypes
import gc
import resource

import pytest

from kwaainet.native import allocator
from kwaainet.native.allocator import NEW_OBJECTS, collect_seldom, keep_freed_memory

BLOCK, TIMES = 256 << 10, 100
GLIBC = hasattr(ctypes.CDLL(None), "mallopt")


def faults():
    """Pages the system had to hand out while blocks of a relay's size came and went."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(TIMES):
        _ = [bytes(BLOCK) + b"x" for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_blocks_that_come_and_go_are_not_taken_from_the_system_each_time():
    assert keep_freed_memory() is GLIBC
    faults()
    if GLIBC:
        assert faults() < TIMES  # of the 25,600 pages that the blocks have together


@pytest.mark.parametrize("failing", [OSError, TypeError, AttributeError])
def test_another_c_library_is_left_as_it_is(monkeypatch, failing):
    def missing(name):
        raise failing

    monkeypatch.setattr(allocator.ctypes, "CDLL", missing)
    assert not keep_freed_memory()


def test_garbage_is_looked_for_seldom_and_not_among_what_was_there():
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        collect_seldom()
        assert gc.get_threshold() == (NEW_OBJECTS, *before[1:])
        assert gc.get_freeze_count() > frozen
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
