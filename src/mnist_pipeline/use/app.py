"""Serve a page on this machine to draw a digit on, and to see what the network sees.

python -m mnist_pipeline app
"""

import argparse
import asyncio
import io
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi import Path as Segment
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import ClientDisconnect

from mnist_pipeline.files import InputError, explain_refusal, load_params
from mnist_pipeline.use import network, versions
from mnist_pipeline.use.digit import read_digit
from mnist_pipeline.use.spool import AppParams, keep

HOST, PAGE = "127.0.0.1", Path(__file__).parent / "page"
NAMES = (HOST, "localhost")  # of this machine
BODY = 20_000_000  # bytes that a picture may have
EVERY = 60  # seconds between looks at the repository's tags
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
app = FastAPI(openapi_url=None)
writer = ThreadPoolExecutor(1)  # one correction after another, so that the last one counts


class Served:
    """The network in service. Another one can replace it while requests are answered."""

    def __init__(self, net: network.Network) -> None:
        self.network = net
        self.problem = ""  # why the version in the stage is not in service

    def follow(self, repository: str, stage: str) -> None:
        """Look for another version in the stage, for ever."""
        os.environ["GIT_TERMINAL_PROMPT"] = "0"  # nobody may be there to type a password
        while True:
            time.sleep(EVERY)
            self.update(repository, stage)

    def update(self, repository: str, stage: str) -> None:
        """Serve the stage's version, or keep the old one and say why."""
        try:
            found, net = versions.find(versions.read_tags(repository), stage, None), self.network
            if found != (net.version, net.commit):
                net = network.load(versions.fetch(repository, found), *found)
                say(f"Now serving {found.name}")
            self.problem = ""  # first: it is not the new version's
            self.network = net
        except (InputError, OSError) as error:
            problem = " ".join(str(error).split())
            if problem != self.problem:
                say(f"warning: {problem}")
            self.problem = problem


def say(text: str) -> None:
    """Print a line, if that works: the terminal may be gone, or the disk of a log full."""
    with suppress(OSError):
        print(text, file=sys.stderr)


@app.middleware("http")
async def guard(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse what another site's page sends, also if that site's name leads to 127.0.0.1."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    # Whatever the port: it may be forwarded from another machine.
    if host.partition(":")[0] not in NAMES or origin not in (None, f"http://{host}"):
        found = f"expected http://{HOST}, found another address"
        return JSONResponse({"detail": found}, 403, HEADERS)
    response = await go_on(request)
    response.headers.update(HEADERS)
    return response


@app.exception_handler(InputError)
@app.exception_handler(OSError)
@app.exception_handler(ClientDisconnect)
async def refuse(_: Request, error: Exception) -> Response:
    """The answer to a bad picture, or if the spool cannot be written."""
    why = explain_refusal(error) if isinstance(error, OSError) else str(error)
    return JSONResponse({"detail": why}, 400)


async def receive(request: Request) -> io.BytesIO:
    """A picture in a request's body; refused as soon as it is too long."""
    if not request.headers.get("content-type", "").startswith("image/"):
        raise HTTPException(415, "expected a picture, found another type")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > BODY:
            raise HTTPException(413, f"expected at most {BODY // 1_000_000} MB, found more")
    return io.BytesIO(content)


Picture = Annotated[io.BytesIO, Depends(receive)]


@app.post("/predict")
def predict(picture: Picture) -> dict[str, Any]:
    """What the network says of a picture, and what it saw."""
    image = read_digit(picture)
    probabilities = app.state.served.network.probabilities(image)
    return {"probabilities": probabilities.tolist(), "pixels": image.ravel().tolist()}


@app.post("/corrections/{label}")
async def correct(picture: Picture, label: Annotated[int, Segment(ge=0, le=9)]) -> dict[str, str]:
    """Keep a picture with the label that somebody gives it."""
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(writer, lambda: keep(read_digit(picture), label, app.state.most))
    return {"detail": f"kept as {label}, for somebody to look at"}


@app.get("/version")
def version() -> dict[str, str]:
    """What is in service, and why the version in the stage is not."""
    net, problem = app.state.served.network, app.state.served.problem
    return {"version": net.version, "commit": net.commit, "sha256": net.sha256, "problem": problem}


app.mount("/", StaticFiles(directory=PAGE, html=True))  # last, as it takes every path


def main() -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve a page to draw digits on.")
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1 (default: 8000)")
    network.add_options(parser)
    options = parser.parse_args()
    app.state.served = served = Served(network.choose(options))
    app.state.most = load_params("app", AppParams).spool  # corrections that may wait
    try:
        listener = socket.create_server((HOST, options.port))
    except (OSError, OverflowError) as error:
        raise InputError(f"--port: expected a free port, found {options.port}: {error}") from error
    if options.stage:
        follow = (options.repository or ".", options.stage)
        threading.Thread(target=served.follow, args=follow, daemon=True).start()
    port = listener.getsockname()[1]
    print(f"Serving {served.network.version} on http://{HOST}:{port}\nCtrl-C stops it.")
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])
