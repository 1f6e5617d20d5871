from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = """
import resource, torch
from common.compute import compute_with
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        # The one below ends up at the end of the heap, which is what the C library would cut off.
        parts = [torch.ones(2**20) for _ in range(8)]
        del parts
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
compute_with(1)
faults()
print(first, faults(), torch.get_num_threads())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is changed is the allocator of glibc")
def test_memory_of_freed_tensors_is_used_again() -> None:
    root = Path(__file__).parents[2]
    told = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, cwd=root, timeout=60)
    before, after, threads = map(int, told.stdout.split())
    pages = 20 * 8 * 2**22 // 4096
    assert after < pages / 100
    assert before > pages / 10
    assert threads == 1
