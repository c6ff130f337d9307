"""Choose which instructions the numerical libraries use, before they load.

Portable arithmetic takes AVX2, which x86-64 processors have had since 2013, and an order of
additions that Intel and AMD processors share. A variable tells each library so; runtime.py replaces
two operations for which that is not enough, or too slow.
"""

import os
import platform
from typing import Literal

from pydantic import Field

from mnist_pipeline.files import Record, load_params

PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own loops
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions, linear layers
    "MKL_CBWR": "COMPATIBLE",  # other products; AMD's processors ignore MKL_CBWR=AVX2
}
# Prefixes of variables that can change numbers; TF32 is a short format for a GPU's products.
LIBRARIES = ("ATEN_", "DNNL_", "MKL_", "NVIDIA_TF32_", "ONEDNN_", "TORCH_ALLOW_TF32_")


class RuntimeParams(Record):
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        description="where to compute; auto takes an accelerator where there is one"
    )
    arithmetic: Literal["portable", "native"] = Field(
        description="portable: the same bytes on every x86-64 processor with AVX2; native: faster"
    )
    torch: str = Field(
        pattern=r"^\d+\.\d+\.\d+$",
        description="the version of torch that results belong to; another one is refused",
    )


def choose() -> None:
    """Set the libraries' variables as runtime.arithmetic says, whatever the caller has set."""
    if load_params("runtime", RuntimeParams).arithmetic == "portable":
        for name in [name for name in os.environ if name.startswith(LIBRARIES)]:
            del os.environ[name]
        if on_x86_64():
            os.environ |= PORTABLE


def on_x86_64() -> bool:
    """Whether portable arithmetic changes anything on this processor."""
    return platform.machine().lower() in ("x86_64", "amd64")
