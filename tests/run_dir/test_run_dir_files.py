"""File writes are atomic, whatever fails; artifacts match a listed checksum at any time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess

import pytest

from spos_quant.errors import RunError
from spos_quant.run_dir import (
    cache_dir,
    check,
    drop,
    files,
    listed,
    read_artifact,
    read_json,
    store,
    store_json,
    write_bytes,
)
from spos_quant.run_dir.checksums import NAME, settle


@pytest.fixture
def full_disk(monkeypatch):
    """After the given number of writes, the next fails halfway."""

    def after(writes: int) -> None:
        real, count = files._write, 0

        def write(handle: int, data: bytes) -> None:
            nonlocal count
            count += 1
            if count > writes:
                os.write(handle, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(handle, data)

        monkeypatch.setattr(files, "_write", write)

    return after


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, full_disk):
    path = tmp_path / "a" / "x.json"
    write_bytes(path, b"old")
    full_disk(0)
    with pytest.raises(RunError, match=r"x\.json: cannot be written \(No space left on device\); make room"):
        write_bytes(path, b"newer than old")
    assert [p.name for p in path.parent.iterdir()] == ["x.json"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_an_artifact_matches_its_checksum_wherever_writing_it_stops(tmp_path, monkeypatch, full_disk, writes):
    path = tmp_path / "x.json"
    store(path, b"1")
    full_disk(writes)
    for content in (b"2", b"3"):
        with pytest.raises(RunError, match="cannot be written"):
            store(path, content)
        check(path)
        full_disk(writes)
    monkeypatch.undo()
    settle(tmp_path)
    assert listed(path) == (hashlib.sha256(path.read_bytes()).hexdigest(),)
    store(path, b"4")
    assert len(listed(path)) == 1


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/x\.json: cannot be written \(.*\); make room or mend the permissions"):
        write_bytes(tmp_path / "file" / "x.json", b"")
    with pytest.raises(RunError, match="File name too long"):
        write_bytes(tmp_path / ("x" * 300), b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="Permission denied"):
        write_bytes(tmp_path / "x", b"")


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "append"])
def test_damage_is_reported_with_what_to_do(tmp_path, damage):
    path = tmp_path / "metrics.json"
    store_json(path, {"top1": 0.5, "n": 359})
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[10] ^= 1
    path.write_bytes({"flip": data, "truncate": data[:-3], "empty": b"", "append": data + b"\n"}[damage])
    with pytest.raises(RunError, match=r"metrics\.json: is damaged or was changed: .*; delete it and repeat"):
        read_artifact(path)
    path.unlink()
    check(path)  # a deleted file is no error
    store_json(path, {"top1": 0.5})
    assert read_artifact(path) == {"top1": 0.5}


def test_files_that_no_run_wrote_are_read_unchecked(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text("[1]")
    assert read_artifact(path, list) == [1]
    store_json(tmp_path / "other.json", 1)
    assert read_artifact(path, list) == [1]
    assert listed(path) == ()


def test_damage_of_the_list_of_checksums_is_detected(tmp_path):
    store_json(tmp_path / "a.json", 1)
    store_json(tmp_path / "b.json", 2)
    text = (tmp_path / NAME).read_bytes()
    for position in range(0, len(text), 7):
        damaged = bytearray(text)
        damaged[position] ^= 1
        (tmp_path / NAME).write_bytes(damaged)
        with pytest.raises(RunError, match=r"checksums\.sha256: is damaged; delete it"):
            check(tmp_path / "a.json")
    (tmp_path / NAME).write_bytes(text[:90])
    with pytest.raises(RunError, match=r"checksums\.sha256: is damaged"):
        check(tmp_path / "a.json")
    (tmp_path / NAME).unlink()
    assert read_artifact(tmp_path / "a.json", int) == 1


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum")
def test_sha256sum_reads_the_list(tmp_path):
    for name, value in (("a.json", 1), ("b b.json", 2), ("a.json", 3)):
        store_json(tmp_path / name, value)
    done = subprocess.run(["sha256sum", "-c", NAME], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "a.json: OK\nb b.json: OK\n")
    (tmp_path / "a.json").write_text("4")
    done = subprocess.run(["sha256sum", "-c", NAME], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "a.json: FAILED" in done.stdout


def test_drop_removes_files_and_checksums(tmp_path):
    store_json(tmp_path / "a.json", 1)
    store_json(tmp_path / "b.json", 2)
    drop(tmp_path / "a.json", tmp_path / "never.json")
    assert not (tmp_path / "a.json").exists()
    assert listed(tmp_path / "a.json") == ()
    assert len(listed(tmp_path / "b.json")) == 1


def test_invalid_json_is_explained(tmp_path):
    path = tmp_path / "x.json"
    for text in ("{", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(RunError, match=r"x\.json: is damaged .*; delete it and repeat the command"):
            read_json(path)
    with pytest.raises(RunError, match=r"y\.json: cannot be read"):
        read_json(tmp_path / "y.json")
    path.write_text("[1]")
    with pytest.raises(RunError, match="expected a dict, got list"):
        read_json(path)
    path.write_text(json.dumps({"a": 1}))
    assert read_json(path) == {"a": 1}


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_dir("cifar10") == tmp_path / ".cache" / "spos_quant" / "cifar10"
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert str(cache_dir()) == "/somewhere/spos_quant"
