"""A process that is not to outlive the one that started it: Linux's PR_SET_PDEATHSIG."""

from __future__ import annotations

import ctypes
import signal

_PR_SET_PDEATHSIG = 1


def end_with_parent(how: signal.Signals) -> None:
    """Have this process sent ``how`` when the *thread* that started it ends, also while it is stopped."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, how)
