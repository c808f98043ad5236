from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from spos_quant.errors import RunError
from spos_quant.loggers import LogTarget, open_loggers


def log_all(target, rows) -> None:
    with open_loggers(("csv",), target) as log:
        for step, values in rows:
            log.log(values, step=step)


def text(target, name: str = "supernet") -> str:
    return (target.folder / f"{name}.csv").read_bytes().decode()


def test_the_file_is_a_table_of_steps(target):
    log_all(target(), [(1, {"top1": 0.3, "loss": 2.1, "lr": 0.1}), (7, {"top1": 1 / 3, "loss": 1, "lr": 1e-5})])
    assert text(target()) == "step,loss,lr,top1\n1,2.1,0.1,0.3\n7,1.0,1e-05,0.3333333333333333\n"
    assert [path.name for path in target().folder.iterdir()] == ["supernet.csv"]


def test_a_row_is_written_before_the_file_is_closed(target):
    log = open_loggers(("csv",), target())
    assert text(target()) == "step\n"
    log.log({"loss": 2.0}, step=1)
    assert text(target()) == "step,loss\n1,2.0\n"
    log.log({"loss": 1.0}, step=2)
    assert text(target()) == "step,loss\n1,2.0\n2,1.0\n"
    log.close()


def test_resuming_drops_rows_that_are_logged_again(target):
    log_all(target(), [(step, {"loss": float(step)}) for step in range(6)])
    log = open_loggers(("csv",), target(from_step=4))
    assert text(target()) == "step,loss\n0,0.0\n1,1.0\n2,2.0\n3,3.0\n"
    log.log({"loss": 40.0}, step=4)
    log.close()
    assert text(target()) == "step,loss\n0,0.0\n1,1.0\n2,2.0\n3,3.0\n4,40.0\n"
    log_all(target(), [(0, {"loss": 9.0})])
    assert text(target()) == "step,loss\n0,9.0\n"


@pytest.mark.parametrize("from_step", [3, 9])  # 9: the torn step is not logged again
@pytest.mark.parametrize(
    "torn", ["3,0.5", "3,0.5,", "3", "3,0.5,0.2", "\0\0\0", '3,"0.', "3,0.5\n", "x,1.0,1.0\n", "\n"]
)
def test_a_torn_end_is_dropped(torn, from_step, target):
    whole = "step,loss,top1\n1,2.0,0.1\n2,1.0,0.2\n"
    target().folder.mkdir(parents=True)
    (target().folder / "supernet.csv").write_text(whole + torn)
    log_all(target(from_step), [(9, {"loss": 0.5, "top1": 0.25}), (10, {"loss": 0.4, "top1": 0.5})])
    assert text(target()) == whole + "9,0.5,0.25\n10,0.4,0.5\n"


def test_a_new_name_is_a_new_column(target):
    log_all(target(), [(0, {"m": 1.0}), (1, {"z": 2.0}), (2, {"a": 3.0, "m": 4.0}), (3, {"m": 5.0})])
    assert text(target()) == "step,a,m,z\n0,,1.0,\n1,,,2.0\n2,3.0,4.0,\n3,,5.0,\n"
    log_all(target(from_step=1), [(1, {"z": 2.5})])
    assert text(target()) == "step,m,z\n0,1.0,\n1,,2.5\n"  # only dropped rows had a value of a


def test_names_with_commas_quotes_and_line_breaks_come_back(target):
    odd = {'a,"b"': 1.0, "c\nd": 2.0, "ü": 3.0}
    log_all(target(), [(0, odd), (1, odd)])
    before = text(target())
    assert before == 'step,"a,""b""","c\nd",ü\n0,1.0,2.0,3.0\n1,1.0,2.0,3.0\n'
    log_all(target(from_step=1), [(1, odd)])
    assert text(target()) == before


def test_values_that_are_not_finite_come_back(target):
    log_all(target(), [(0, {"a": math.nan, "b": math.inf, "c": -math.inf}), (1, {"d": math.nan})])
    log_all(target(from_step=2), [])
    assert text(target()) == "step,a,b,c,d\n0,nan,inf,-inf,\n1,,,,nan\n"


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/../../b", "..", "", "con\ntrol", "x" * 500])
def test_no_name_leads_out_of_the_folder(name, target, tmp_path):
    log_all(target(name=name), [(0, {"loss": 1.0})])
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert path.parent == target().folder
    assert path.suffix == ".csv"


def test_names_do_not_share_a_file(target):
    for index, name in enumerate(["search-bitops-2.2M", "search/bitops-2.2M", "search bitops-2.2M"]):
        log_all(target(name=name), [(0, {"loss": float(index)})])
    assert text(target(), "search-bitops-2.2M") == "step,loss\n0,0.0\n"
    assert len(list(target().folder.iterdir())) == 3


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/logs/x.csv: cannot be (read|written) \(Not a directory\)"):
        open_loggers(("csv",), LogTarget(tmp_path / "file" / "logs", "r", "x"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(target):
    target().folder.mkdir(mode=0o500)
    with pytest.raises(RunError, match=r"supernet.csv: cannot be written \(Permission denied\)"):
        open_loggers(("csv",), target())


def test_a_foreign_file_is_kept(target):
    target().folder.mkdir()
    path = target().folder / "supernet.csv"
    for content, message in [("a,b\n1,2\n", "is no log"), ("no line", "is no log"), ("x" * 200_000 + "\n", "damaged")]:
        path.write_text(content)
        with pytest.raises(RunError, match=message):
            open_loggers(("csv",), target())
        assert path.read_text() == content
    path.write_text("")
    log_all(target(), [(0, {"loss": 1.0})])
    assert path.read_text() == "step,loss\n0,1.0\n"


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """Limits the size of all files of this process, like a full disk; this includes the test's own output."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_and_loses_no_earlier_row(target):
    log = open_loggers(("csv",), target())
    log.log({"loss": 0.0}, step=0)
    rows = ["step,loss\n", "0,0.0\n"]
    with full_after(len("".join(rows)) + len("1,1.0\n") + 3):
        log.log({"loss": 1.0}, step=1)
        with pytest.raises(RunError, match=r"supernet.csv: cannot be written \(.+\); free some space"):
            log.log({"loss": 2.0}, step=2)
    assert text(target()) == "step,loss\n0,0.0\n1,1.0\n2,2"  # torn
    log.close()
    log_all(target(from_step=2), [(2, {"loss": 2.0})])
    assert text(target()) == "step,loss\n0,0.0\n1,1.0\n2,2.0\n"


def test_a_full_disk_at_a_new_column_keeps_the_old_file(target):
    log = open_loggers(("csv",), target())
    log.log({"loss": 0.0}, step=0)
    with full_after(16), pytest.raises(RunError, match=r"supernet.csv: cannot be written"):
        log.log({"accuracy": 1.0}, step=1)
    log.close()
    assert text(target()) == "step,loss\n0,0.0\n"
    assert [path.name for path in target().folder.iterdir()] == ["supernet.csv"]
