"""Looking at the processes of this machine from outside."""

from __future__ import annotations

import psutil

_ENDED = {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}


def family(pid: int) -> list[psutil.Process]:
    """The process and everything below it."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def named(processes: list[psutil.Process], word: str) -> psutil.Process:
    """The one whose command line holds `word`."""
    return next(process for process in processes if word in " ".join(process.cmdline()))


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; psutil tells a process from a later one with the same number."""
    return [one for one in processes if _lives(one)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() not in _ENDED
    except psutil.NoSuchProcess:  # it ended between the two
        return False
