"""Device, threads, version: found as asked, or refused."""

import platform
import socket

import pytest
import torch

from mnist_pipeline import runtime
from mnist_pipeline.files import InputError
from mnist_pipeline.runtime import RuntimeParams

VERSION = torch.__version__.split("+")[0]
ACCELERATOR = torch.accelerator.current_accelerator(check_available=True)


def params(**changes) -> RuntimeParams:
    return RuntimeParams(**{"device": "auto", "threads": 0, "torch": VERSION} | changes)


def test_another_torch_is_refused():
    """Results belong to a version: another one is an error that names both."""
    with pytest.raises(InputError, match=rf"runtime.torch: expected 1.2.3, found {VERSION}$"):
        runtime.start(params(torch="1.2.3"))


def test_auto_takes_what_is_there():
    """The accelerator where there is one, otherwise the CPU."""
    assert runtime.start(params()) == (ACCELERATOR or torch.device("cpu"))
    assert runtime.start(params(device="cpu")) == torch.device("cpu")


def test_missing_device_is_refused():
    """Asked for and not there: an error, never a silent run on the CPU."""
    name = "mps" if ACCELERATOR is not None and ACCELERATOR.type == "cuda" else "cuda"
    with pytest.raises(InputError, match=rf"runtime.device: expected the accelerator {name}"):
        runtime.start(params(device=name))


def test_threads_are_as_asked():
    """So many threads; 0 means every core that the process may use."""
    runtime.start(params(threads=1))
    assert torch.get_num_threads() == 1
    runtime.start(params())
    assert torch.get_num_threads() == runtime._cores()


def test_algorithms_are_deterministic():
    """torch itself refuses what it could not repeat bit by bit."""
    torch.use_deterministic_algorithms(False)
    runtime.start(params())
    assert torch.are_deterministic_algorithms_enabled()


def test_environment_tells_what_changes_numbers_but_not_which_machine(monkeypatch):
    """Device, threads, processor, versions, libraries' variables; no host, time, path, no other."""
    record = runtime.environment(runtime.start(params(threads=1, device="cpu")))
    assert record["device"] == "cpu"
    assert record["threads"] == 1
    assert record["torch"] == torch.__version__
    assert record["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert record["processor"]
    text = str(record)
    assert socket.gethostname() not in text.split("'")
    assert platform.node() not in text.split("'")
    assert "/" not in text
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    monkeypatch.setenv("UNRELATED", "1")
    after = runtime.environment(torch.device("cpu"))
    assert after == record | {"ONEDNN_MAX_CPU_ISA": "SSE41"}
