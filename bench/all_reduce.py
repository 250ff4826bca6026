"""Sums over two GPUs by NCCL and by one shot, by size, inside a CUDA graph.

Usage: PYTHONPATH=engine:. python bench/all_reduce.py. Prints microseconds; a row a size.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from gpu_http import free_port
from gpu_timing import median_seconds
from octavo_engine.runner.parallel import one_shot
from octavo_engine.runner.parallel.group import DistributedGroup
from octavo_engine.runner.parallel.process_group import set_environment

SIZES = [8 << 10, 64 << 10, 256 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 16 << 20]


def rank(number: int, port: int) -> None:
    set_environment(one_node=True)
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    store = dist.TCPStore("127.0.0.1", port, 2, number == 0, timedelta(seconds=60))
    dist.init_process_group("nccl", store=store, rank=number, world_size=2, device_id=device)
    one_shot.MOST_BYTES = max(SIZES)
    groups = {"NCCL": DistributedGroup(), "one shot": one_shot.OneShotGroup(None, device)}
    for size in SIZES:
        x = torch.full((size // 2,), 1.0 + number, dtype=torch.bfloat16, device=device)
        row = []
        for name, group in groups.items():
            if name == "one shot":
                assert torch.equal(group.all_reduce(x), torch.full_like(x, 3.0))
            row.append(f"{name} {1e6 * median_seconds([lambda g=group, x=x: g.all_reduce(x)]):8.1f}")
            x.zero_()
            x += 1.0 + number
        if number == 0:
            print(f"{size >> 10:6} KiB  {'  '.join(row)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        rank(*arguments.rank)
        return
    port = str(free_port())
    ranks = [subprocess.Popen([sys.executable, __file__, "--rank", str(i), port]) for i in range(2)]
    sys.exit(max(abs(process.wait(120)) for process in ranks))


if __name__ == "__main__":
    main()
