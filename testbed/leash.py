"""Start a command that dies with its parent: `python -m testbed.leash PID PROGRAM ARG...`.

The kernel sends SIGTERM to the command when its parent, the process PID, ends, however it ends, so
that `kill -9` of the cluster leaves no orphan behind. Linux only; elsewhere the command just runs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the parent-death signal, then become the command."""
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the signal was set
            sys.exit(1)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  # the cluster's own command line


if __name__ == "__main__":
    main()
