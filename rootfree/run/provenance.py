"""Which code and which hardware made a number."""

import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import rootfree
from rootfree import distributed, numerics

PACKAGES = ("torch", "torchvision", "timm", "numpy", "hydra-core")


@cache
def code() -> dict[str, Any]:
    """Return commit, whether files of the suite differ from it, and versions (null outside a checkout)."""

    def git(*arguments: str) -> str | None:
        try:
            here = Path(__file__).parent
            done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    def version_of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    tracked = git("ls-files", "--error-unmatch", __file__) is not None  # or installed, maybe inside another repository
    status = git("status", "--porcelain", "--", ":/rootfree", ":/configs", ":/experiments") if tracked else None
    versions = {"python": platform.python_version(), "rootfree": rootfree.__version__}
    return {
        "commit": git("rev-parse", "HEAD") if tracked else None,
        "dirty": None if status is None else bool(status),
        "versions": versions | {name: version_of(name) for name in PACKAGES},
    }


def describe_device(device: torch.device) -> str:
    """Name the hardware: what it is, on a CPU its instruction set and the threads in use, and how many processes.

    The instruction set is that of torch's kernels: another one rounds differently, and so ends with other weights;
    `portable` ones end with the same on every x86-64 processor.
    """
    count = distributed.world_size()
    many = f"{count} x " if count > 1 else ""
    if device.type == "cuda":
        return f"{many}cuda: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        instructions = torch.backends.cpu.get_cpu_capability() + (", portable" if numerics.is_portable() else "")
        return f"{many}cpu: {_processor()} ({instructions}), {torch.get_num_threads()} thread(s)"
    return f"{many}{device.type}: {_processor()}"


@cache
def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
