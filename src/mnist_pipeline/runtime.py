"""On what the computing stages run: device, threads, determinism, and a record of them."""

import ctypes
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torchvision
from pydantic import Field

from mnist_pipeline.files import InputError, Record

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
LIBRARIES = ("ATEN_", "DNNL_", "MKL_", "ONEDNN_")  # environment variables that change numbers


class RuntimeParams(Record):
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        description="where to compute; auto takes an accelerator where there is one"
    )
    threads: int = Field(ge=0, le=1024, description="CPU threads; 0 = all cores")
    torch: str = Field(
        pattern=r"^\d+\.\d+\.\d+$",
        description="the version of torch that results belong to; another one is refused",
    )


def start(params: RuntimeParams) -> torch.device:
    """Make torch deterministic, set its threads, and find the device.

    Raises InputError for another version of torch than the one named, and for a device
    that is missing: never a silent run on the CPU.
    """
    found = torch.__version__.split("+")[0]
    if found != params.torch:
        raise InputError(f"params.yaml: runtime.torch: expected {params.torch}, found {found}")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS: same sums, same bits
    torch.use_deterministic_algorithms(True)
    # Filling new memory with NaN is for finding bugs; here all of it is written before it is read.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(params.threads or _cores())
    _keep_freed_memory()
    return _device(params.device)


def environment(device: torch.device) -> dict[str, str | int]:
    """What can change the result's bytes; the same on every run on the same machine."""
    record: dict[str, str | int] = {
        "device": device.type,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    if device.type == "cuda":
        record["accelerator"] = torch.cuda.get_device_name(device)
    changed = {name: value for name, value in os.environ.items() if name.startswith(LIBRARIES)}
    return record | dict(sorted(changed.items()))


def _device(name: str) -> torch.device:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "cpu" or (name == "auto" and accelerator is None):
        return torch.device("cpu")
    if accelerator is None or name not in ("auto", accelerator.type):
        found = accelerator.type if accelerator else "none"
        raise InputError(
            f"params.yaml: runtime.device: expected the accelerator {name}, found {found}"
        )
    return accelerator


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed: a step's large buffers are the same pages in every step."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)  # buffers of every size
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def _processor() -> str:
    """The CPU's name; the numerical libraries choose their code by it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # the ones this process may use; not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
