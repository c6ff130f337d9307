"""Device, version, arithmetic: found as asked, or refused."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import python, set_params

from mnist_pipeline import arithmetic, runtime
from mnist_pipeline.arithmetic import RuntimeParams
from mnist_pipeline.files import InputError

VERSION = torch.__version__.split("+")[0]
CPUS = CPUINFO.read_text() if (CPUINFO := Path("/proc/cpuinfo")).exists() else ""
ACCELERATOR = torch.accelerator.current_accelerator(check_available=True)


def params(**changes) -> RuntimeParams:
    good = {"device": "auto", "arithmetic": "portable", "torch": VERSION}
    return RuntimeParams(**good | changes)


def test_another_torch_is_refused():
    """Results belong to a version: another one is an error that names both."""
    for other in ("1.2.3", f"{VERSION}1"):
        with pytest.raises(InputError, match=rf"{other} is asked for, and {VERSION} is installed"):
            runtime.start(params(torch=other))


def test_auto_takes_what_is_there():
    """The accelerator where there is one, otherwise the CPU."""
    assert runtime.start(params()) == (ACCELERATOR or torch.device("cpu"))
    assert runtime.start(params(device="cpu")) == torch.device("cpu")


def test_missing_device_is_refused():
    """Asked for and not there: an error, never a silent run on the CPU."""
    name = "mps" if ACCELERATOR is not None and ACCELERATOR.type == "cuda" else "cuda"
    with pytest.raises(InputError, match=rf"runtime.device: this machine has no {name}"):
        runtime.start(params(device=name))


def test_algorithms_are_deterministic(monkeypatch):
    """torch itself refuses what it could not repeat bit by bit, and an operation has one thread.

    Nor does the caller choose cuBLAS's workspace, which decides the order of its sums.
    """
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    torch.set_deterministic_debug_mode("default")
    torch.set_num_threads(2)
    runtime.start(params())
    assert torch.get_num_threads() == 1
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.get_deterministic_debug_mode() == 2  # error, not warn


def test_portable_roots_are_correctly_rounded():
    """Adadelta takes roots in place, Adam does not; MKL's roots depend on the processor."""
    runtime.start(params())
    values = torch.rand(100_003, generator=torch.Generator().manual_seed(1))
    weights = values[:18_432].view(64, 32, 3, 3).to(memory_format=torch.channels_last)
    for tensor in (values, weights):
        exact = np.sqrt(tensor.double().numpy()).astype(np.float32)  # double: no second rounding
        assert (tensor.clone().sqrt_().numpy() == exact).all()
        assert (tensor.sqrt().numpy() == exact).all()
        learned = tensor.clone().requires_grad_()
        assert (learned.clone().sqrt_().detach().numpy() == exact).all()


@pytest.mark.parametrize(
    ("rows", "kind"), [(16, "float32"), (1, "float32"), (0, "float32"), (16, "bfloat16")]
)
def test_portable_products(rows, kind):
    """Those of a linear layer and its gradients, also of no image and in other precisions."""
    runtime.start(params())
    generator = torch.Generator().manual_seed(1)
    sizes = ((rows, 784), (10, 784), (10,), (rows, 10))
    x, weight, bias, gradient = (
        torch.randn(*size, generator=generator, dtype=getattr(torch, kind)) for size in sizes
    )
    wide = [each.double() for each in (x, weight, bias, gradient)]
    for found, exact in (
        (torch.addmm(bias, x, weight.t()), wide[2] + wide[0] @ wide[1].t()),
        (gradient @ weight, wide[3] @ wide[1]),
        (gradient.t() @ x, wide[3].t() @ wide[0]),
    ):
        assert found.dtype == x.dtype
        torch.testing.assert_close(
            found.double(), exact, rtol=1e-2, atol=0.3 if kind == "bfloat16" else 1e-4
        )


def in_blocks(a, b):
    """a @ b in float32: fused multiply-adds, one by one in each 1,024 of the sum, then blocks."""
    blocks = []
    for start in range(0, len(b), 1024):
        total = np.zeros((len(a), b.shape[1]), np.float32)
        for k in range(start, min(start + 1024, len(b))):
            product = a[:, k, None].double().numpy() * b[k].double().numpy()  # exact
            total = (total + product).astype(np.float32)
        blocks.append(total)
    return sum(blocks[1:], blocks[0])


def test_portable_products_are_sums_in_a_known_order():
    """fc1's product and its gradients have the bits of a sum whose order no processor decides."""
    runtime.start(params())
    x, weight, gradient = torch.randn(16, 9216), torch.randn(128, 9216), torch.randn(16, 128)
    for a, b in ((x, weight.t()), (gradient, weight), (gradient.t(), x)):
        assert ((a @ b).numpy() == in_blocks(a, b)).all()


@pytest.mark.parametrize("machine", ["x86_64", "arm64"])
def test_portable_needs_avx2_on_x86_64(monkeypatch, machine):
    """A CPU without it is refused in a line that names native; other architectures need none."""
    monkeypatch.setattr(torch.cpu, "_is_avx2_supported", lambda: False)
    monkeypatch.setattr(runtime.platform, "machine", lambda: machine)
    runtime.start(params(arithmetic="native"))
    if machine == "arm64":
        runtime.start(params())
    else:
        with pytest.raises(InputError, match=r"portable needs AVX2, .* lacks; native does not$"):
            runtime.start(params())


# A single processor cannot tell which bits these give.
PORTABLE = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}


@pytest.mark.parametrize(("machine", "portable"), [("x86_64", PORTABLE), ("arm64", {})])
def test_portable_overrides_the_callers_variables_and_native_leaves_them(
    workspace, monkeypatch, machine, portable
):
    """Every variable by which a library chooses its instructions, and no other one.

    On machines other than x86-64, torch would warn of the one that it does not know.
    """
    monkeypatch.setattr(arithmetic.platform, "machine", lambda: machine)
    names = ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA")
    names += ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")
    caller = dict.fromkeys(names, "another") | {"OTHER": "1"}
    monkeypatch.setattr(os, "environ", dict(caller))
    set_params(runtime={"arithmetic": "native"})
    arithmetic.choose()
    assert os.environ == caller
    set_params(runtime={"arithmetic": "portable"})
    arithmetic.choose()
    assert os.environ == portable | {"OTHER": "1"}


def test_the_libraries_load_with_the_variables_set(workspace):
    """The command sets them before torch and numpy load, whatever its caller has set."""
    code = """
import importlib, os, sys, types
from mnist_pipeline import __main__
load = importlib.import_module
def checked(name, package=None):
    if not name.startswith("mnist_pipeline."):
        return load(name, package)
    assert not {"torch", "numpy"} & sys.modules.keys()
    assert os.environ.pop("TORCH_CPP_LOG_LEVEL") == "FATAL"
    assert os.environ["ATEN_CPU_CAPABILITY"] == "avx2"
    return types.SimpleNamespace(main=lambda: print(name))
importlib.import_module = checked
for stage in ("train", "evaluate"):
    os.environ["ATEN_CPU_CAPABILITY"] = "default"
    sys.argv = ["", stage]
    __main__.main()
"""
    done = python("-c", code, cwd=workspace)
    assert (done.stdout, done.stderr) == ("mnist_pipeline.train\nmnist_pipeline.evaluate\n", "")


@pytest.mark.skipif("model name" not in CPUS, reason="Linux names x86-64 processors there")
def test_processor_is_the_model():
    """Native results are that processor's alone, and so are their stored epochs."""
    assert f"model name\t: {runtime.processor()}\n" in CPUS


def test_environment_tells_what_decides_bytes(monkeypatch):
    """Portable: the same everywhere. Native: the processor, and variables of the libraries."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    monkeypatch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
    monkeypatch.setenv("UNRELATED", "1")
    portable = runtime.environment(torch.device("cpu"), "portable")
    assert list(portable) == ["device", "arithmetic", "platform", "numpy", "scikit-learn", "torch"]
    assert portable["torch"] == VERSION
    native = runtime.environment(torch.device("cpu"), "native")
    assert native == portable | {
        "arithmetic": "native",
        "processor": runtime.processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
    }
