"""Run a command that dies with its parent: `python -I -S leash.py PARENT_PID command …`.

The kernel's parent-death signal survives exec, so a runner or an embedded Redis never outlives the process that
started it, however that process ended. It follows the parent *thread*: start leashed children from a thread that
lives as long as the process does. Linux only; elsewhere the command runs without the leash.

PARENT_PID 0 stands for a parent whose pid is not known when the command line is written (a supervisor's children):
the leash is put on, but a parent that died before that goes unnoticed.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def leashed(argv: list[str], parent_pid: int) -> list[str]:
    """The command line that runs `argv` on a leash held by `parent_pid`; 0 for whoever starts it."""
    return [sys.executable, "-I", "-S", __file__, str(parent_pid), *argv]


def main() -> None:
    parent_pid, argv = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent_pid not in (0, os.getppid()):  # it died before the leash was on
        sys.exit(1)
    os.execvp(argv[0], argv)  # noqa: S606 - no shell is the point


if __name__ == "__main__":
    main()
