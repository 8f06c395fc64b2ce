"""Runs the supervisor in a child process and ends whatever it leaves behind.

The warden does nothing but wait, so that there is hardly a way for it to fail: it passes signals
on, adopts every orphan below it (Linux), and once its child has ended, by SIGKILL even, it ends all
that is left. If the warden itself is killed, its child gets SIGTERM and ends the cluster in order.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType

import psutil

from rhizome.children import adopt_orphans, die_with_parent

TERM_GRACE_S = 5.0
_KILL_GRACE_S = 5.0
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_warded(work: Callable[[], int], *, grace_s: float = TERM_GRACE_S) -> int:
    """Forks, runs `work` in the child and returns its exit status once nothing of it is left.

    To be called while this process has one thread. The child has a session of its own: a Ctrl-C
    reaches it once, through the warden. A child ended by a signal counts as 128 + its number. What
    it leaves behind gets SIGTERM, and SIGKILL after `grace_s`.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    adopt_orphans()
    warden = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child == 0:
        _run_child(work, warden)
    _forward_signals_to(child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    status = _wait_for(child)
    end_processes(psutil.Process().children(recursive=True), grace_s)
    _reap()
    return status


def end_processes(
    processes: Iterable[psutil.Process], grace_s: float = TERM_GRACE_S
) -> list[psutil.Process]:
    """SIGTERM to all, SIGKILL after `grace_s`; returns those that live even then."""
    living = _signalled(processes, signal.SIGTERM)
    _, living = psutil.wait_procs(living, timeout=grace_s)
    living = [*living, *_descendants(living)]
    _, living = psutil.wait_procs(_signalled(living, signal.SIGKILL), timeout=_KILL_GRACE_S)
    return list(living)


def _run_child(work: Callable[[], int], warden: int) -> None:
    os.setsid()
    die_with_parent(warden)
    for number in _FORWARDED:
        signal.signal(number, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    code = 1
    try:
        code = work()
    except KeyboardInterrupt:
        code = 130
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the caller's own way out belongs to the warden


def _forward_signals_to(child: int) -> None:
    def forward(number: int, _frame: FrameType | None) -> None:
        try:
            os.kill(child, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
        except ProcessLookupError:
            return

    for number in _FORWARDED:
        signal.signal(number, forward)


def _wait_for(child: int) -> int:
    """Reaps whoever ends until it is the child."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return


def _signalled(processes: Iterable[psutil.Process], number: int) -> list[psutil.Process]:
    living = []
    for process in processes:
        try:
            process.send_signal(number)
            living.append(process)
        except psutil.NoSuchProcess:
            continue
    return living


def _descendants(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        try:
            found.extend(process.children(recursive=True))
        except psutil.NoSuchProcess:
            continue
    return found
