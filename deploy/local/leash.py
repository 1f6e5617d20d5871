"""Run a program that the kernel kills when its parent dies, however the parent dies.

Called as ``python leash.py PARENT_PID PROGRAM [ARGUMENT ...]``; a caller that cannot know its process id says 0, and then
only a death in the first milliseconds goes unnoticed. It asks the kernel for SIGKILL at the parent's death
and then becomes the program, so that nothing has to run between fork and exec in a parent with threads. A process that
is Python's own calls `tie` itself.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent and exec the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    tie(parent or os.getppid())
    os.execvp(program[0], program)  # noqa: S606 - no shell is wanted


def tie(parent: int) -> None:
    """Let the kernel kill this process when its parent dies; exits with 1 when it is already gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the kernel knew of the leash
        sys.exit(1)


if __name__ == "__main__":
    main()
