"""Parts of a batch: added by one tree, whoever computed them."""

import os
import signal
import socket
import threading

import pytest
import torch
from conftest import python
from test_train import noise, training

from mnist_pipeline import parallel, ranks
from mnist_pipeline.files import InputError
from mnist_pipeline.parallel import MachineParams, Workers, add_by_tree


def test_threads_share_the_work_and_keep_its_order():
    """Two items that wait for each other both end, in two threads; results are in their order."""
    barrier = threading.Barrier(2, timeout=60)

    def work(item: int) -> int:
        barrier.wait()
        return -item

    assert Workers(threads=2).map(work, [3, 1]) == [-3, -1]
    assert Workers(threads=1).map(abs, [-3, 1]) == [3, 1]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_tree_is_the_same_however_it_is_divided(processes):
    """Blocks added first, then the blocks' sums: ((a + b) + (c + d)), in every bit."""
    values = [[torch.tensor(value)] for value in (1e8, 1.0, -1e8, 1.0)]
    expected = (values[0][0] + values[1][0]) + (values[2][0] + values[3][0])
    blocks = [
        Workers(1, rank, processes).own([[each[0].clone()] for each in values])
        for rank in range(processes)
    ]
    assert sum(map(len, blocks)) == 4
    assert add_by_tree([add_by_tree(list(block)) for block in blocks])[0] == expected


def test_processes_exchange_their_sums():
    """Each of four has the tree's sum, whether by messages or by memory that they share.

    Tensors keep their shape and every bit, whatever their memory format and type; they may have
    other sizes each time. At the end, no connection is left.
    """
    program = """
import os, sys, torch
from mnist_pipeline.parallel import SHARED, MachineParams
from mnist_pipeline.ranks import join, leave
for rank in "123":  # after the imports, which take seconds
    if os.fork() == 0:
        os.environ["RANK"] = rank
        break
_, workers = join(torch.device("cpu"), MachineParams(threads=1, processes=4))
value = [1e8, 1.0, -1e8, 1.0][workers.rank]  # ((a + b) + (c + d)) = 0, (((a + b) + c) + d) = 1
image = (torch.arange(48).double() / 3).view(2, 3, 2, 4).to(memory_format=torch.channels_last)
for memory in ("", sys.argv[1]):
    if memory:
        os.environ[SHARED] = memory
    for mine in ([torch.tensor(value), image], [image], [torch.tensor(value), image]):
        found = workers.add([[each.clone() for each in mine]])
        assert torch.equal(found[-1], 4 * image)
        assert len(mine) == 1 or found[0] == 0
leave()
assert not torch.distributed.is_initialized()
if workers.rank == 0:
    assert [os.wait()[1] for _ in range(3)] == [0, 0, 0]
"""
    memory = os.memfd_create("sums")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = PLACE | {"WORLD_SIZE": "4", "MASTER_PORT": str(free.getsockname()[1])}
    done = python("-c", program, f"/proc/{os.getpid()}/fd/{memory}", **place)
    used = os.fstat(memory).st_size
    os.close(memory)
    assert done.returncode == 0, done.stderr
    assert used == 4 * 8 * 49  # bytes: of four processes, the larger of the two lists


@pytest.mark.parametrize("how", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_signal_that_is_ignored_stays_ignored(how):
    """As after nohup: torch's launcher would end the training when the terminal goes."""
    before = signal.signal(signal.SIGHUP, how)
    try:
        heeded = ranks.configure(2, "").signals_to_handle.split(",")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "SIGTERM" in heeded
    assert ("SIGHUP" in heeded) == (how is signal.SIG_DFL)


def test_a_process_that_is_gone_is_one_line(monkeypatch):
    """Whatever torch's own message is."""

    def exchange() -> None:
        raise RuntimeError("[pair.cc:545] Connection reset\nby peer")

    monkeypatch.setattr(parallel.time, "sleep", lambda _: None)
    with pytest.raises(InputError, match=r"^train: another process .* after the last epoch$"):
        parallel.reach(exchange)


PLACE = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("RANK", None, "RANK: expected 0 to 1, as torchrun sets it, found none"),
        ("RANK", "2", "RANK: expected 0 to 1, as torchrun sets it, found 2"),
        ("WORLD_SIZE", "two", "WORLD_SIZE: expected 1 to 256, as torchrun sets it, found two"),
        ("WORLD_SIZE", "0", "WORLD_SIZE: expected 1 to 256, as torchrun sets it, found 0"),
        ("MASTER_PORT", "9" * 5, "MASTER_PORT: expected 1 to 65535, .* found 99999"),
        ("MASTER_ADDR", None, "MASTER_ADDR: expected torchrun's, as WORLD_SIZE is set, found none"),
    ],
)
def test_a_place_that_is_no_place_is_refused(monkeypatch, name, value, says):
    """One line that names the variable."""
    place = PLACE | {name: value}
    monkeypatch.setattr(os, "environ", {each: good for each, good in place.items() if good})
    with pytest.raises(InputError, match=f"^{says}$"):
        ranks.count(MachineParams(threads=0, processes=1))


def test_a_first_machine_that_has_no_address_is_named(monkeypatch):
    """The operating system's message does not name it."""
    monkeypatch.setenv("MASTER_ADDR", "a.invalid")
    with pytest.raises(InputError, match=r"^MASTER_ADDR: .* machine, found a\.invalid: "):
        ranks.own_address()


def test_a_port_that_is_taken_is_one_line(monkeypatch):
    """The line does not blame another process of this training."""
    monkeypatch.setattr(parallel.time, "sleep", lambda _: None)
    monkeypatch.setattr(ranks, "give_up", lambda: None)  # it would end the tests later on
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    with socket.create_server(("", 0)) as other:
        for name, value in (PLACE | {"MASTER_PORT": str(other.getsockname()[1])}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match=r"^train: another program has taken MASTER_PORT"):
            ranks.meet("gloo")


@pytest.mark.parametrize(("size", "micro_batches"), [(61, 4), (3, 8)])
def test_parts_add_up_to_the_whole_batchs_gradient(monkeypatch, size, micro_batches):
    """To rounding of float64; also where the parts are unequal, or more than the images."""
    images, labels, *_ = noise(size)
    gradients = []
    for count in (1, micro_batches):
        run = training(micro_batches=count)
        run.net.double()
        run.net.dropout1.p = run.net.dropout2.p = 0.0
        run.step(images, labels, (1, 0))
        gradients.append(torch.cat([each.grad.flatten() for each in run.net.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_the_number_of_threads_shows_in_no_bit():
    """One, two and five threads: the same weights, after steps with dropout."""
    weights = []
    for threads in (1, 2, 5):
        run = training(threads=threads, batch_size=16, micro_batches=4)
        run.train_epoch(1, noise(50), interval=1000)
        weights.append(torch.cat([each.flatten() for each in run.net.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_threads_of_a_process(monkeypatch):
    """An accelerator has one; on the CPU the processes share them, and each has at least one.

    A container on a large machine may use few of its cores; here a variable says how many.
    """
    params = MachineParams(threads=4, processes=1)
    cpu = torch.device("cpu")
    assert [params.threads_on(cpu, processes) for processes in (1, 2, 8)] == [4, 2, 1]
    assert params.threads_on(torch.device("cuda")) == 1
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert MachineParams(threads=0, processes=1).threads_on(cpu) == 1
