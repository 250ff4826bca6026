"""Which kernels the GPU's time goes to, and how long it idles, in decode steps and in prompts.

Usage: PYTHONPATH=engine python bench/gpu_profile.py [--batches 1 32 256] [--tensor 1] [--out FILE].
With several ranks it is the first one's GPU that is looked at.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from gpu import Bench, engine

TOP = 12


def busy_and_span(spans: list[tuple[float, float]]) -> tuple[float, float]:
    """Microseconds in which at least one kernel ran, and from the first begin to the last end."""
    busy = end = 0.0
    spans.sort()
    for begin, finish in spans:
        busy += max(0.0, finish - max(begin, end))
        end = max(end, finish)
    return busy, end - spans[0][0]


def report(title: str, work: Callable[[], object]) -> str:
    """Kernels by their share of the busy time."""
    work()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        torch.cuda.synchronize()
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    times: defaultdict[str, float] = defaultdict(float)
    counts: defaultdict[str, int] = defaultdict(int)
    for event in events:
        times[event.name] += event.time_range.elapsed_us()
        counts[event.name] += 1
    busy, span = busy_and_span([(event.time_range.start, event.time_range.end) for event in events])
    total = sum(times.values())
    head = f"{title}: {span / 1e3:.2f} ms, the GPU busy {busy / span:.1%}"
    first = sorted(times, key=lambda name: -times[name])[:TOP]
    return "\n".join(
        [
            head,
            *(
                f"  {times[name] / total:6.1%} {times[name] / 1e3:9.3f} ms {counts[name]:6d} x {name[:90]}"
                for name in first
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--tensor", type=int, default=1, help="ranks that share each layer")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    parts = []
    with engine(tensor=arguments.tensor) as core:
        bench = Bench(core, 1)
        for batch in arguments.batches:
            title = f"{batch} x 16 in, 40 out"
            parts.append(
                report(title, lambda batch=batch: bench.answer([bench.prompt(16) for _ in range(batch)], 40))
            )
            print(parts[-1], flush=True)
        for count, length in ((1, 512), (16, 1024)):
            title = f"{count} x {length} in, 1 out"
            parts.append(
                report(
                    title,
                    lambda count=count, length=length: bench.answer(
                        [bench.prompt(length) for _ in range(count)], 1
                    ),
                )
            )
            print(parts[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
