"""Run a command that ends when the process that started this one is gone, however that ended.

python flows/leash.py <pid of the starter> dvc repro ...

The kernel's signal on a parent's death outlives exec, so the command needs to know nothing of it.
Linux; elsewhere the command runs without the leash. Source: prctl(2).
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h

if __name__ == "__main__":
    starter, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == int(starter):  # else it was gone before the line above
        os.execvp(command[0], command)  # noqa: S606 (it is what this file is for)
