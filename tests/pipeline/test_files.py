"""Files are written whole or not at all, and read strictly."""

import os
import resource

from conftest import refusal
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from mnist_pipeline.files import explain_end, write_atomically


def test_one_of_several_processes_tells_those_that_started_it(tmp_path, monkeypatch, capsys):
    """Those print one line for all. A stage that dvc has started prints its own line."""
    explain_end("a\nb")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setenv("DVC_STAGE", "train")
    explain_end("a\nb")
    assert capsys.readouterr().err == "error: a b\n" * 2
    monkeypatch.delenv("DVC_STAGE")
    explain_end("a\nb")
    assert capsys.readouterr().err == ""
    assert ProcessFailure(0, 1, 2, str(tmp_path / "error.json")).message == "a b"


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


def test_full_disk_keeps_the_old_file(tmp_path, capsys):
    """No room for the new content: one line, status 2, the old content, no leftovers."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        says = refusal(lambda: write_atomically(path, bytes(10_000)), capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert says == f"{path}: cannot be written: File too large"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
