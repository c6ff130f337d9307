"""What the computing stages run on: device, determinism, and a record of what decides bytes."""

import ctypes
import os
import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

from mnist_pipeline.arithmetic import LIBRARIES, RuntimeParams, on_x86_64
from mnist_pipeline.files import InputError

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # malloc.h
OVERRIDES = torch.library.Library("aten", "IMPL")  # kernels of ours in place of torch's


def start(params: RuntimeParams) -> torch.device:
    """Make torch deterministic, leave it one thread, and find the device.

    Raises InputError for another version of torch than the one named, for a device that is
    missing, since a silent run on the CPU helps nobody, and for a CPU without AVX2.
    """
    found = torch.__version__.split("+")[0]
    if found != params.torch:
        what = f"{params.torch} is asked for, and {found} is installed: make setup, or name {found}"
        raise InputError(f"params.yaml: runtime.torch: {what}")
    replaced = params.arithmetic == "portable" and on_x86_64()
    if replaced and not torch.cpu._is_avx2_supported():
        what = f"portable needs AVX2, which this processor ({processor()}) lacks; native does not"
        raise InputError(f"params.yaml: runtime.arithmetic: {what}")
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS: same sums, same bits
    torch.set_deterministic_debug_mode("error")  # does not import the compiler
    # Filling new memory with NaN is for finding bugs; here all of it is written before it is read.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(1)  # an operation's; parallel.py runs operations side by side
    if replaced:
        for name, kernel in KERNELS.items():
            OVERRIDES.impl(name, kernel, "CPU", allow_override=True)
    _keep_freed_memory()
    return find_device(params.device)


def environment(device: torch.device, arithmetic: str) -> dict[str, str]:
    """What decides the training's bytes, besides code, parameters and data."""
    record = {
        "device": device.type,
        "arithmetic": arithmetic,
        "platform": f"{platform.system()}-{platform.machine()}",
        "numpy": np.__version__,
        "scikit-learn": metadata.version("scikit-learn"),
        "torch": torch.__version__.split("+")[0],
    }
    if device.type == "cuda":
        record["accelerator"] = torch.cuda.get_device_name(device)
    if arithmetic == "portable":
        return record
    changed = {name: value for name, value in os.environ.items() if name.startswith(LIBRARIES)}
    capability = torch.backends.cpu.get_cpu_capability()
    return record | {"processor": processor(), "cpu_capability": capability} | changed


def processor() -> str:
    """The CPU's name; the numerical libraries choose their code by it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.processor() or platform.machine()


def _root(x: torch.Tensor) -> torch.Tensor:
    """Tensor.sqrt, as IEEE 754 asks for it.

    torch leaves it to MKL, which improves an estimate of the processor's (rsqrtps). Intel's and
    AMD's estimates differ, and so do the roots, in one of thirteen, whatever MKL_CBWR says.
    """
    return torch.as_tensor(np.sqrt(x.detach().numpy()))


def _root_in_place(x: torch.Tensor) -> torch.Tensor:
    numbers = x.detach().numpy()
    np.sqrt(numbers, out=numbers)
    return x


def _multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b as oneDNN computes it, which has AVX2 for it; MKL, made portable, has SSE2."""
    if a.dtype != torch.float32 or not a.numel() * b.numel():  # oneDNN would refuse it
        return torch.bmm(a[None], b[None])[0]
    if b.t().is_contiguous() and a.numel() < b.numel():  # the second factor is copied
        return _multiply_onednn(b.t(), a.t()).t()
    return _multiply_onednn(a, b)


def _multiply_onednn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return product


def _multiply_and_add(
    c: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, beta: float = 1, alpha: float = 1
) -> torch.Tensor:
    return beta * c + alpha * _multiply(a, b)


# Adadelta takes roots in place, Adam and others do not.
KERNELS = {"mm": _multiply, "addmm": _multiply_and_add, "sqrt": _root, "sqrt_": _root_in_place}


def find_device(name: str) -> torch.device:
    """The device of this name; auto is an accelerator if there is one.

    Raises InputError if this machine lacks it.
    """
    cpu = torch.device("cpu")
    best = torch.accelerator.current_accelerator(check_available=True) or cpu
    if name not in ("auto", "cpu", best.type):
        what = f"this machine has no {name}; auto would take {best.type}"
        raise InputError(f"params.yaml: runtime.device: {what}")
    return cpu if name == "cpu" else best


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed: a step's large buffers are the same pages in every step."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)  # buffers of every size
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)
        libc.mallopt(M_ARENA_MAX, 1)  # what one thread frees, another one takes
