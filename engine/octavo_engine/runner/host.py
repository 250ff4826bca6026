"""What the machine gives this process, and where a container's control group gives less.

Both versions of Linux control groups are read, as a container sees its own (the kernel documents them in
cgroup-v2.rst and cgroup-v1/).
"""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_NO_LIMIT = 1 << 62


def processors(cgroup: Path = _CGROUP) -> int:
    """Threads that can run at once: the cores allowed, or the CPU quota rounded up where that is less.

    More threads than the quota would be throttled together, in the middle of every operator.
    """
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), _cpu_quota(cgroup))))


def free_memory(cgroup: Path = _CGROUP, meminfo: Path = _MEMINFO) -> int:
    """Bytes that can still be taken, in the system and within the container's limit."""
    return min(_free_in_system(meminfo), _free_in_cgroup(cgroup))


def _cpu_quota(cgroup: Path) -> float:
    """Processors' worth of time; infinite without a quota."""
    whole = _words(cgroup / "cpu.max")
    quota = whole[0] if whole else _word(cgroup / "cpu/cpu.cfs_quota_us", "-1")
    period = whole[1] if whole else _word(cgroup / "cpu/cpu.cfs_period_us", "100000")
    return math.inf if quota in {"max", "-1"} else int(quota) / int(period)


def _free_in_system(meminfo: Path) -> int:
    if not meminfo.is_file():
        return _NO_LIMIT
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _free_in_cgroup(cgroup: Path) -> int:
    """Reclaimable file pages do not count as used."""
    if (cgroup / "memory.max").is_file():
        return _free_below(cgroup / "memory.max", cgroup / "memory.current", "inactive_file")
    memory = cgroup / "memory"
    return _free_below(
        memory / "memory.limit_in_bytes", memory / "memory.usage_in_bytes", "total_inactive_file"
    )


def _free_below(limit_file: Path, usage_file: Path, reclaimable: str) -> int:
    limit = _word(limit_file, "max")
    if limit == "max" or int(limit) >= _NO_LIMIT:
        return _NO_LIMIT
    statistics = dict(line.split() for line in (limit_file.parent / "memory.stat").read_text().splitlines())
    used = int(_word(usage_file, "0")) - int(statistics.get(reclaimable, 0))
    return max(0, int(limit) - used)


def _words(file: Path) -> list[str]:
    return file.read_text().split() if file.is_file() else []


def _word(file: Path, default: str) -> str:
    return next(iter(_words(file)), default)
