"""Ctrl-C: work stops at a safe point, and the process ends even while Python cannot run signal handlers."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from spos_quant import interrupt

CHILD = """
import hashlib, sys, threading, time
from spos_quant import interrupt
interrupt.install("go on with: again")
what = sys.argv[1]
ready = lambda: print("ready", flush=True)
try:
    if what == "python":
        ready()
        time.sleep(600)
    if what == "c":
        threading.Timer(0.5, ready).start()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # a C call of many minutes that lets other threads run
    if what == "safe point":
        with interrupt.deferred() as interrupted:
            ready()
            while not interrupted():
                time.sleep(0.01)
            print("finished the step", flush=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("what", "stdout", "stderr"),
    [("python", "stopped\n", ""), ("c", "", "go on with: again\n"), ("safe point", "finished the step\nstopped\n", "")],
)
def test_signals(number, what, stdout, stderr):
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, what], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (out, err) == (stdout, stderr)
    assert process.returncode == (interrupt.EXIT_STATUS if what == "c" else 0)


def test_without_a_handler_nothing_waits():
    with interrupt.deferred() as interrupted:
        assert not interrupted()


def test_a_deferred_interrupt_is_raised_at_the_end(monkeypatch):
    monkeypatch.setattr(interrupt._State, "arrived", False)  # so that it is restored for other tests
    with pytest.raises(KeyboardInterrupt), interrupt.deferred():
        with interrupt.deferred() as interrupted:
            interrupt._handle(signal.SIGINT, None)
            assert interrupted()
        assert interrupted()
    with interrupt.deferred() as interrupted:
        assert not interrupted()


def test_a_child_that_is_ended_does_not_end_its_parent():
    code = (
        "import os, signal, sys, time\nfrom spos_quant import interrupt\ninterrupt.install('again')\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    interrupt.reset_in_child()\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.write(1, b'ready\\n')\n"  # one write each, so that the two lines never mix
        "    time.sleep(600)\n"
        "os.write(1, b'parent\\n')\n"
        "sys.stdin.read(1)\n"
        "os.kill(child, signal.SIGTERM)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
        "time.sleep(2 * interrupt.GRACE_SECONDS)\n"
        "print('alive', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert {process.stdout.readline(), process.stdout.readline()} == {"ready\n", "parent\n"}
    out, _ = process.communicate("x", timeout=60)
    assert out == f"{-signal.SIGTERM}\nalive\n"


def test_an_error_after_an_interrupt_is_reported_as_an_interrupt():
    """Ctrl-C during an import leaves a partially initialized package, which causes other errors."""
    code = """
import os, signal, time
import spos_quant.stages.spaces as spaces
from spos_quant.cli import main

def broken():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        raise AttributeError("partially initialized module") from None

spaces.all_spaces = broken
main(["spaces"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (interrupt.EXIT_STATUS, "")
    assert done.stderr == "interrupted; go on with: spos-quant spaces\n"
