"""The same weights on every x86-64 processor: the instructions that the libraries beneath torch may take.

torch, oneDNN and MKL choose their kernels by the processor, and each kernel rounds differently. Held to AVX2, and MKL
to the path that does not ask who made the processor, they end with the same bits on all that have AVX2.
"""

import os
import sys

PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "DNNL_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}


def is_portable() -> bool:
    """Whether this process holds the libraries to what all processors have, by the setting or by its environment."""
    return all(os.environ.get(name) == value for name, value in PORTABLE.items())


def choose(numerics: str) -> None:
    """Hold the libraries to AVX2 for `portable`; the workers of a sweep inherit it. `native` leaves all as it is.

    Raises:
        ValueError: torch is loaded already, and chose by the processor.
    """
    if numerics == "native" or is_portable():
        return
    if "torch" in sys.modules:  # the libraries ask when they are loaded
        variables = " ".join(f"{name}={value}" for name, value in PORTABLE.items())
        raise ValueError(f"numerics = portable comes too late, since torch is loaded: start Python with {variables}")
    os.environ.update(PORTABLE)
