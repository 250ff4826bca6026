"""What a container gives, read from files as each version of control groups lays them out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from octavo_engine.runner.host import free_memory, processors

CORES = len(os.sched_getaffinity(0))
GIB = 1 << 30


def lay_out(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, CORES, id="no control group leaves all cores"),
        pytest.param({"cpu.max": "max 100000\n"}, CORES, id="version 2 without a quota"),
        pytest.param({"cpu.max": "50000 100000\n"}, 1, id="half a core still runs one thread"),
        pytest.param({"cpu.max": "1000000000 100000\n"}, CORES, id="a quota above the cores changes nothing"),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            CORES,
            id="version 1 without a quota",
        ),
        pytest.param(
            {"cpu/cpu.cfs_quota_us": "80000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            1,
            id="version 1 with a quota",
        ),
    ],
)
def test_threads_follow_the_quota(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    assert processors(lay_out(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, 8 * GIB, id="without a limit what the system has"),
        pytest.param({"memory.max": "max\n", "memory.stat": ""}, 8 * GIB, id="version 2 without a limit"),
        pytest.param(
            {
                "memory.max": f"{4 * GIB}\n",
                "memory.current": f"{3 * GIB}\n",
                "memory.stat": f"anon 5\ninactive_file {GIB}\n",
            },
            2 * GIB,
            id="version 2 counts reclaimable pages as free",
        ),
        pytest.param(
            {"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.stat": ""},
            8 * GIB,
            id="version 1 without a limit",
        ),
        pytest.param(
            {
                "memory/memory.limit_in_bytes": f"{2 * GIB}\n",
                "memory/memory.usage_in_bytes": f"{3 * GIB}\n",
                "memory/memory.stat": "total_inactive_file 0\n",
            },
            0,
            id="version 1 above its limit has nothing left",
        ),
    ],
)
def test_free_memory_is_the_smaller_of_system_and_limit(
    tmp_path: Path, files: dict[str, str], expected: int
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable:    {8 * GIB // 1024} kB\n")
    assert free_memory(lay_out(tmp_path / "cgroup", files), meminfo) == expected
