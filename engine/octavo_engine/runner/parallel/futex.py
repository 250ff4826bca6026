"""Waiting for a word of shared memory to change: Linux's futex(2), whose waiters cost nothing."""

from __future__ import annotations

import ctypes
import platform
import time

_SYSCALL = {"x86_64": 202, "aarch64": 98}.get(platform.machine())
_WAIT, _WAKE, _EVERYONE = 0, 1, 0x7FFFFFFF
_POLL_SECONDS = 50e-6  # where the call's number is not known
_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def wait(word: ctypes.c_uint32, seen: int, seconds: float) -> None:
    """Return when somebody wakes the waiters, at once if ``word`` is not ``seen``, or after ``seconds``."""
    if _SYSCALL is None:
        time.sleep(min(seconds, _POLL_SECONDS))
        return
    whole = int(seconds)
    limit = _Timespec(whole, int((seconds - whole) * 1e9))
    _libc.syscall(_SYSCALL, ctypes.byref(word), _WAIT, ctypes.c_uint32(seen), ctypes.byref(limit), None, 0)


def wake(word: ctypes.c_uint32) -> None:
    """Wake everyone who waits for ``word``, in any process."""
    if _SYSCALL is not None:
        _libc.syscall(_SYSCALL, ctypes.byref(word), _WAKE, _EVERYONE, None, None, 0)
