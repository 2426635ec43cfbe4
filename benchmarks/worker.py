"""Runs one method on one file and prints CPU seconds, peak memory and value as JSON; started by compare.py."""

import json
import os
import sys
import time
import warnings

warnings.simplefilter("ignore")

import numpy as np  # noqa: E402

sys.path.insert(0, os.path.dirname(__file__))
import methods  # noqa: E402


def memory_mib(field: str) -> float:
    """`VmRSS`, resident now, or `VmHWM`, its peak since `forget_peak`; Linux only."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def main(name: str, path: str, calls: int) -> None:
    try:
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    except ImportError:
        pass
    X, method = np.load(path), getattr(methods, name)
    method(X[:500].copy())  # loads and compiles what the method needs
    forget_peak()
    before, seconds, walls = memory_mib("VmRSS"), [], []
    for _ in range(calls):
        wall, cpu = time.perf_counter(), time.process_time()
        value = method(X)
        seconds.append(time.process_time() - cpu)
        walls.append(time.perf_counter() - wall)
    print(
        json.dumps(
            {
                "cpu": sorted(seconds)[calls // 2],
                "wall": min(walls),
                "peak": memory_mib("VmHWM") - before,
                "value": value,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
