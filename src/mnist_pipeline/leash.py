"""Tool leash: run a command that ends when the process that started it is gone.

python src/mnist_pipeline/leash.py PID COMMAND...    # PID: the process that starts this

However the starter ends, even by SIGKILL, the kernel then kills the command. On Linux; elsewhere
the command runs without a leash. Source: PR_SET_PDEATHSIG in prctl(2).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def take() -> None:
    """Have the kernel kill this process when its parent is gone; it stays so after an exec."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def take_from_dvc() -> None:
    """Take the leash of the dvc that started this stage."""
    take()
    # A stage shares dvc's process group. A parent from another group has adopted this process:
    # dvc was gone before the leash was taken.
    if sys.platform == "linux" and os.getpgid(os.getppid()) != os.getpgrp():
        os.kill(os.getpid(), signal.SIGKILL)


def leashed(*command: str) -> list[str]:
    """The command that runs `command` on a leash held by this process."""
    return [sys.executable, "-I", __file__, str(os.getpid()), *command]


if __name__ == "__main__":
    starter, *command = sys.argv[1:]
    take()
    if os.getppid() == int(starter):  # otherwise it was gone before the leash was taken
        try:
            os.execvp(command[0], command)  # noqa: S606 (it is what this file is for)
        except OSError as error:  # not on PATH, say
            sys.exit(f"error: {command[0]}: {error.strerror}")
