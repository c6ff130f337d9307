"""The page's server in this process, on a network that was never trained."""

import socket
import threading

import torch
import uvicorn

from mnist_pipeline.export import onnx_bytes
from mnist_pipeline.model import Net
from mnist_pipeline.use import network
from mnist_pipeline.use.app import HOST, Served, app

MOST = 2  # corrections that may wait


def model(seed: int) -> bytes:
    """A network of random weights in an ONNX file, the same bytes each time."""
    torch.manual_seed(seed)
    return onnx_bytes(Net().eval())


def untrained(version: str) -> network.Network:
    """Such a network, in service."""
    return network.load(model(1), version, "ab" * 20)


class Server:
    """A server that can be stopped, and started again on the same port."""

    def __init__(self) -> None:
        self.served, self.port = Served(untrained("v1.0.0")), 0
        self.start()

    def start(self) -> None:
        """From here on it answers: until its thread runs, connections wait."""
        listener = socket.create_server((HOST, self.port))
        self.port = listener.getsockname()[1]
        self.url = f"http://{HOST}:{self.port}"
        app.state.served, app.state.most = self.served, MOST
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run, args=([listener],))
        self.thread.start()

    def stop(self) -> None:
        """Stop the server, and wait until it has ended."""
        self.uvicorn.should_exit = True
        self.thread.join()
