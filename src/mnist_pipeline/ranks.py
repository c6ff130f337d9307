"""Processes that train together: started here, or by torchrun on several machines.

torchrun's variables tell a process its place: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR,
MASTER_PORT.
"""

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from datetime import timedelta

import psutil
import torch
from torch import distributed
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from mnist_pipeline.files import InputError, explain_end
from mnist_pipeline.leash import leashed
from mnist_pipeline.parallel import GONE, SHARED, MachineParams, Workers, reach

PATIENCE = 20  # seconds that a process waits for another one
GRACE = 5  # seconds that a process has to end when another one has failed


def started_by_torchrun() -> bool:
    """Whether this process is one of several already."""
    return "WORLD_SIZE" in os.environ


def count(params: MachineParams) -> int:
    """How many processes there are, or are to be.

    Raises InputError if torchrun's variables are incomplete, or name no place among the processes.
    """
    if not started_by_torchrun():
        return params.processes
    if not os.environ.get("MASTER_ADDR"):
        raise InputError("MASTER_ADDR: expected torchrun's, as WORLD_SIZE is set, found none")
    read_number("MASTER_PORT", 1, 65535)
    processes = read_number("WORLD_SIZE", 1, 256)
    read_number("RANK", 0, processes - 1)
    return processes


def read_number(name: str, least: int, most: int) -> int:
    """One of torchrun's variables; InputError if it is no number from `least` to `most`."""
    found = os.environ.get(name, "none")
    if not found.isdecimal() or not least <= int(found) <= most:
        raise InputError(f"{name}: expected {least} to {most}, as torchrun sets it, found {found}")
    return int(found)


def launch(stage: str, processes: int) -> None:
    """Run a stage as several processes, which end with this one; return when all have succeeded.

    Raises InputError with the reason of the first one to fail, or if it was killed.
    """
    logging.disable()  # torch would report at length what is said below
    os.environ.pop("DVC_STAGE", None)  # they are on this process's leash, not on dvc's
    if hasattr(os, "memfd_create"):  # elsewhere they send each other messages
        os.environ[SHARED] = f"/proc/{os.getpid()}/fd/{os.memfd_create('sums')}"
    command = leashed(sys.executable, "-m", "mnist_pipeline", stage)
    try:
        with tempfile.TemporaryDirectory() as logs:
            elastic_launch(configure(processes, logs), command[0])(*command[1:])
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == 2:
            raise InputError(failure.message) from error
        how = f"process {rank} of {processes} ended with exit status {failure.exitcode}"
        raise InputError(f"{stage}: {how}; dvc repro goes on after the last epoch") from error


def configure(processes: int, logs: str) -> LaunchConfig:
    """A launch of several processes on this machine; only a failure is written to `logs`.

    A signal that this process ignores, as after nohup or a shell's &, stays ignored.
    """
    ends = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    heeded = [each.name for each in ends if signal.getsignal(each) is not signal.SIG_IGN]
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id="mnist_pipeline",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        shutdown_timeout=GRACE,
        signals_to_handle=",".join(heeded),
        logs_specs=DefaultLogsSpecs(log_dir=logs),
    )


def join(device: torch.device, params: MachineParams) -> tuple[torch.device, Workers]:
    """This process's own device and its workers, once all processes have found each other.

    Raises InputError if one does not answer.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = params.threads_on(device, local)
    if not started_by_torchrun():
        return device, Workers(threads)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if local > torch.cuda.device_count():
            found = f"found {local} processes for {torch.cuda.device_count()}"
            raise InputError(f"params.yaml: machine.processes: expected a GPU for each, {found}")
        torch.cuda.set_device(device)
    meet("nccl" if device.type == "cuda" else "gloo")
    if distributed.get_rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115 (the first one speaks for all)
    return device, Workers(threads, distributed.get_rank(), distributed.get_world_size())


def meet(backend: str) -> None:
    """Find the other processes; InputError if one does not answer."""
    own = own_address()
    for name, addresses in psutil.net_if_addrs().items():
        if own in [each.address for each in addresses]:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    # If others reach this process and it cannot reach them, gloo would wait for minutes.
    alarm = threading.Timer(2 * PATIENCE, give_up)
    alarm.daemon = True
    alarm.start()
    reach(lambda: distributed.init_process_group(backend, timeout=timedelta(seconds=PATIENCE)))
    alarm.cancel()


def leave() -> None:
    """Close the connections to the other processes, if there are any."""
    if distributed.is_initialized():
        distributed.destroy_process_group()  # NCCL would warn


def own_address() -> str:
    """This machine's address on the way to the first process; gloo would go by the host name."""
    first = os.environ["MASTER_ADDR"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((first, 1))  # sends nothing
        except OSError as error:
            what = f"expected the first machine, found {first}: {error.strerror}"
            raise InputError(f"MASTER_ADDR: {what}") from error
        address: str = probe.getsockname()[0]
        return address


def give_up() -> None:
    """End this process, whatever it waits for."""
    explain_end(f"train: {GONE}; dvc repro goes on after the last epoch")
    os._exit(2)
