"""Serve a page on this machine to draw a digit on, and to see what the network sees.

python -m mnist_pipeline app
"""

import argparse
import asyncio
import io
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, FastAPI, HTTPException, Request, Response
from fastapi import Path as Segment
from fastapi.concurrency import run_in_threadpool
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
routes = APIRouter()


class Served:
    """The network in service. Another one can replace it while requests are answered."""

    def __init__(self, net: network.Network) -> None:
        self.network = net
        self.problem = ""  # why the version in the stage is not in service

    def follow(self, repository: str, stage: str) -> None:
        """Look for another version in the stage, for ever."""
        while True:
            time.sleep(EVERY)
            before, self.problem = self.problem, self.update(repository, stage)
            if self.problem not in ("", before):
                print("warning:", self.problem, file=sys.stderr)

    def update(self, repository: str, stage: str) -> str:
        """Serve the stage's version, or keep the old one; returns what went wrong, if anything."""
        try:
            found = versions.find(versions.read_tags(repository), stage, None)
            if found.name != self.network.version:
                net = network.load(versions.fetch(repository, found), *found)
                self.problem = ""  # first: it is not the new version's
                self.network = net
                print(f"Now serving {found.name}")
        except (InputError, OSError) as error:
            return " ".join(str(error).split())
        return ""


def make_app(served: Served, most: int) -> FastAPI:
    """The page and what it asks for; `most` corrections may wait in the spool."""
    app = FastAPI(
        openapi_url=None,
        exception_handlers={InputError: refuse, OSError: refuse, ClientDisconnect: refuse},
    )
    app.state.served, app.state.most = served, most
    app.state.turn = asyncio.Lock()  # one correction after another, so that the last one counts

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

    app.include_router(routes)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


async def refuse(_: Request, error: Exception) -> Response:
    """The answer to a bad picture, or if the spool cannot be written."""
    why = explain_refusal(error) if isinstance(error, OSError) else str(error)
    return JSONResponse({"detail": why}, 400)


@routes.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    """What the network says of a picture, and what it saw."""
    picture, net = await read_picture(request), request.app.state.served.network
    image = await run_in_threadpool(read_digit, picture)
    probabilities = await run_in_threadpool(net.probabilities, image)
    return {"probabilities": probabilities.tolist(), "pixels": image.ravel().tolist()}


@routes.post("/corrections/{label}")
async def correct(request: Request, label: Annotated[int, Segment(ge=0, le=9)]) -> dict[str, str]:
    """Keep a picture with the label that somebody gives it."""
    picture, state = await read_picture(request), request.app.state
    async with state.turn:
        await run_in_threadpool(lambda: keep(read_digit(picture), label, state.most))
    return {"detail": f"kept as {label}, for somebody to look at"}


@routes.get("/version")
async def version(request: Request) -> dict[str, str]:
    """What is in service, and why the version in the stage is not."""
    net, problem = request.app.state.served.network, request.app.state.served.problem
    return {"version": net.version, "commit": net.commit, "sha256": net.sha256, "problem": problem}


async def read_picture(request: Request) -> io.BytesIO:
    """A picture in a request's body; refused as soon as it is too long."""
    if not request.headers.get("content-type", "").startswith("image/"):
        raise HTTPException(415, "expected a picture, found another type")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > BODY:
            raise HTTPException(413, f"expected at most {BODY // 1_000_000} MB, found more")
    return io.BytesIO(content)


def main() -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve a page to draw digits on.")
    parser.add_argument("--port", type=int, default=8000, help="on 127.0.0.1 (default: 8000)")
    network.add_options(parser)
    options = parser.parse_args()
    served, most = Served(network.choose(options)), load_params("app", AppParams).spool
    try:
        listener = socket.create_server((HOST, options.port))
    except (OSError, OverflowError) as error:
        raise InputError(f"--port: expected a free port, found {options.port}: {error}") from error
    if options.stage:
        follow = (options.repository or ".", options.stage)
        threading.Thread(target=served.follow, args=follow, daemon=True).start()
    port = listener.getsockname()[1]
    print(f"Serving {served.network.version} on http://{HOST}:{port}\nCtrl-C stops it.")
    app = make_app(served, most)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])
