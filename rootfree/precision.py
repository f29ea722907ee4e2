"""How numbers are computed: the dtype of the forward pass, TF32, and whether results repeat bit for bit."""

import os
import warnings
from functools import cache

import torch

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def forward_in(precision: str, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass: products in `precision`, the rest as torch decides."""
    if precision != "float32" and not _fast(precision, device.type):
        _warn_once(
            f"trainer.precision={precision}: this {device.type} has no units for it, so the forward pass will be "
            "slower than in float32, perhaps ten times"
        )
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "float32")


def set_arithmetic(tf32: bool, deterministic: bool) -> None:
    """Set the switches that hold for the whole process, as every run does, so that none inherits another's.

    Args:
        tf32: let a GPU round the factors of float32 products to 10 bits of mantissa, several times faster.
        deterministic: use only operations that repeat bit for bit on a GPU; the others raise a RuntimeError. A CPU
            repeats bit for bit anyway.
    """
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic


def _fast(precision: str, kind: str) -> bool:
    if kind == "cuda":
        return precision == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        known = torch.cpu.get_capabilities()
        names = ("avx512_bf16", "amx_bf16", "bf16") if precision == "bf16" else ("amx_fp16", "avx512_fp16", "fp16")
        return any(known.get(name, False) for name in names)
    return True


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)
