"""Give memory that nobody uses back to the operating system."""

import ctypes

# Of glibc's <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

# A block as large as this is a weight, not a request: it comes from the system and goes back there when it is freed.
LARGE_BLOCK_BYTES = 8 << 20


def return_large_blocks() -> None:
    """Let large blocks go back as soon as they are freed; called once, before much is allocated.

    By itself glibc raises its idea of a large block to 32 MiB once a block of that size is freed, and keeps as much
    at the end of each thread's arena, where trimming does not reach. Other C libraries are left alone.
    """
    configure = getattr(ctypes.CDLL(None), "mallopt", None)
    if configure is not None:
        configure(_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        configure(_TRIM_THRESHOLD, 2 * LARGE_BLOCK_BYTES)


def return_memory() -> None:
    """Let the C library give back what it keeps for later; blocks for tens of milliseconds, off the loop.

    glibc holds on to freed memory in each thread's arena: without this, a server that unloaded a model of 100 MB
    was 200 MB larger than before it loaded it. Other C libraries have no such call, and are left alone.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
