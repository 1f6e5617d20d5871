"""``python -m tests.faults.skewed SECONDS MODULE …``: a worker whose wall clock is off by so much, and stands still, too."""

from __future__ import annotations

import runpy
import sys
import time


def main() -> None:
    skew_s, module = float(sys.argv[1]), sys.argv[2]
    now_ns = time.time_ns() + int(skew_s * 1e9)
    time.time_ns = lambda: now_ns
    time.time = lambda: now_ns / 1e9
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
