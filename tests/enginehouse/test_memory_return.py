"""What goes back to the system when it is freed. That a server's memory shrinks is measured in tests/benchmarks."""

import ctypes
import subprocess
import sys

import pytest

from enginehouse.memory_return import LARGE_BLOCK_BYTES

SCRIPT = """
import ctypes, threading
from enginehouse.memory_return import return_large_blocks, return_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.memset.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def use(size, count):
    blocks = [libc.malloc(size) for _ in range(count)]
    for block in blocks:
        libc.memset(block, 1, size)
    keep.append(libc.malloc(64))
    for block in blocks:
        libc.free(block)

keep = []
return_large_blocks()
before = resident()
for size, count in ((%d, 4), (100_000, 500)):
    thread = threading.Thread(target=use, args=(size, count))
    thread.start()
    thread.join()
return_memory()
print(resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than glibc")
def test_large_blocks_and_many_small_ones_go_back() -> None:
    script = SCRIPT % (3 * LARGE_BLOCK_BYTES)
    grown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 8_000_000
