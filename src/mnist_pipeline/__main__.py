"""python -m mnist_pipeline NAME runs a stage or a tool; without a name, it lists them.

Each module with a function `main` is one, and the first line of its docstring describes it.
"""

import argparse
import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnist_pipeline import leash

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # else an import prints a traceback or loses it
if __name__ == "__main__" and "DVC_STAGE" in os.environ:
    leash.take_from_dvc()  # before the imports, which take time: dvc may be killed at any moment

LACKS = f"{sys.executable} has no module {{}}: source .venv/bin/activate"
try:
    from mnist_pipeline.files import (
        InputError,
        check_inputs,
        explain_end,
        explain_refusal,
        inputs_at_start,
    )
except ModuleNotFoundError as error:  # dvc starts the first python on PATH, whichever that is
    sys.stderr.write(f"error: {LACKS.format(error.name)}\n")
    sys.exit(2)

PACKAGE = Path(__file__).parent
COMPUTING = ("train", "evaluate")  # the stages that runtime.arithmetic applies to
WITHOUT_OPTIONS = ("download", "train", "evaluate", "save", "run", "audit")


def main() -> None:
    """Run what the command line names, and import only what that needs."""
    name, *words = sys.argv[1:] or ["--help"]
    known = commands()
    sys.argv = [f"python -m mnist_pipeline {name}", *words]  # for argparse
    with one_line_errors():
        if name in ("--help", "-h"):
            print("usage: python -m mnist_pipeline NAME\n")
            print("\n".join(f"  {each:12}{does}" for each, (_, does) in known.items()))
        else:
            call(name, known)


def commands() -> dict[str, tuple[str, str]]:
    """Each command's module and what it does, by name."""
    found = {}
    for path in sorted(PACKAGE.rglob("[a-z]*.py"), key=lambda path: path.stem):
        text = path.read_text(encoding="utf-8")
        if "\ndef main(" in text:
            module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            name = path.stem.replace("_", "-")
            found[name] = (module, text.partition("\n")[0].strip('"'))
    return found


def call(name: str, known: dict[str, tuple[str, str]]) -> None:
    """Import a command's module and call its main."""
    if name not in known:
        raise InputError(f"{name}: expected one of {', '.join(known)}")
    if name in WITHOUT_OPTIONS:
        argparse.ArgumentParser(description=known[name][1]).parse_args()  # --help, or a refusal
    by_hand = name if name in COMPUTING else ""  # or as one of several processes
    # If dvc was started in a subfolder, it names a stage ../dvc.yaml:train.
    stage = os.environ.get("DVC_STAGE", by_hand).rpartition(":")[2]
    inputs_at_start(stage)  # before any of the code is loaded
    os.environ.pop("MPLBACKEND", None)  # a notebook sets one that this environment may lack
    if name in COMPUTING:
        from mnist_pipeline import arithmetic  # noqa: PLC0415 (other commands do not need it)

        arithmetic.choose()  # before torch and numpy load
        # What ranks.py says in a line, torch would say in thirty.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    gc.disable()
    module = importlib.import_module(known[name][0])
    end_imports()
    module.main()
    check_inputs(stage)


def end_imports() -> None:
    """Have Ctrl-C raise KeyboardInterrupt, unless it is ignored, as after a shell's &.

    What is imported stays. To look through it for garbage, now and at the end, takes two seconds.
    """
    gc.freeze()
    gc.enable()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn bad input inside the block into one line on stderr and exit status 2."""
    # UTF-8 whatever the locale; but not every file's name is UTF-8.
    how = {"encoding": "utf-8", "errors": "surrogateescape", "line_buffering": True}
    sys.stdout.reconfigure(**how)  # type: ignore[union-attr]
    try:
        yield
    except InputError as error:
        message = str(error)
    except BrokenPipeError:  # head, say, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is in the buffer
        sys.exit(128 + signal.SIGPIPE)
    except ModuleNotFoundError as error:
        message = LACKS.format(error.name)
    except OSError as error:  # a missing file, a read-only folder, a full disk
        message = explain_refusal(error)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one ends torch's own end, silently
        if "LOCAL_RANK" not in os.environ:  # of several processes, only their starter says so
            print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    else:
        return
    explain_end(message)
    sys.exit(2)


if __name__ == "__main__":
    main()
