"""One-line errors and atomic writes."""

import os
import resource
import subprocess
import sys

import pytest
from conftest import refusal

from mnist_pipeline import stage
from mnist_pipeline.stage import InputError, write_atomically


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


def test_success_is_silent(capsys):
    """A stage that ends well just returns."""
    assert stage.run(lambda: None) is None
    assert capsys.readouterr() == ("", "")


def test_bad_input_is_one_line_and_status_2(capsys):
    """Line ends and indentation inside a message become blanks."""
    assert refusal(raising(InputError("a: b\n  c")), capsys) == "a: b c"


def test_missing_file_is_one_line_and_status_2(tmp_path, capsys):
    """The operating system's refusals name the file."""
    path = tmp_path / "missing"
    assert refusal(path.read_bytes, capsys) == f"{path}: No such file or directory"


def test_a_bug_keeps_its_traceback():
    """What is nobody's bad input is not hidden."""
    with pytest.raises(ZeroDivisionError):
        stage.run(lambda: print(1 // 0))


def test_interrupt_is_one_word(capsys):
    """Ctrl-C: no traceback, the status of SIGINT."""
    with pytest.raises(SystemExit) as end:
        stage.run(raising(KeyboardInterrupt()))
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_write_makes_folders_and_replaces(tmp_path):
    """The file is there whole, readable for all, and nothing else is."""
    path = tmp_path / "new" / "file"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_write_does_not_go_through_links(tmp_path):
    """DVC may link outputs to its cache: a write must not reach what the link points to."""
    (tmp_path / "cache").write_bytes(b"old")
    os.link(tmp_path / "cache", tmp_path / "file")
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "cache").read_bytes() == b"old"


def test_full_disk_keeps_the_old_file(tmp_path):
    """No room for the new content: one line, status 2, the old content, no leftovers."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    code = (
        "from pathlib import Path; from mnist_pipeline import stage;"
        "stage.run(lambda: stage.write_atomically(Path('file'), bytes(10_000)))"
    )
    limit = (1000, 1000)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "error: file: cannot be written: File too large\n"
    assert done.returncode == 2
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_folder_is_refused(tmp_path, capsys):
    """A folder that cannot be: one line with the file's name."""
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" / "below"
    says = refusal(lambda: write_atomically(path, b""), capsys)
    assert says.startswith(f"{path}: cannot be written: ")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's service is Linux's own")
@pytest.mark.parametrize(("variable", "lives"), [("DVC_STAGE", False), ("OTHER", True)])
def test_stage_whose_dvc_is_gone_ends_at_once(tmp_path, variable, lives):
    """Even where dvc was gone before the stage could ask the kernel; other programs go on."""
    # The shell is dvc here: it ends first, its child is adopted by a process of another group.
    late = f"(sleep 0.5; exec env {variable}=x {sys.executable} -m mnist_pipeline.download) &"
    done = subprocess.run(
        ["/bin/sh", "-c", late],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        start_new_session=True,
    )
    assert ("params.yaml: No such file" in done.stdout) == lives
    assert bool(done.stdout) == lives
