"""Shows how the start goes on: a line per phase, with a spinner where there is a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.status import Status


class Progress(Protocol):
    """What the supervisor tells people. One phase at a time; `note` belongs to the current one."""

    def begin(self, phase: str) -> None: ...

    def note(self, text: str) -> None:
        """A detail of the current phase, replaced by the next."""
        ...

    def done(self, phase: str, took_s: float, detail: str = "") -> None: ...

    def say(self, text: str) -> None:
        """A line that stays."""
        ...

    def close(self) -> None:
        """Leaves the terminal as it was."""
        ...


class TerminalProgress:
    """Finished phases as lines, the current one as a spinner with its newest note."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._phase = ""

    def begin(self, phase: str) -> None:
        self.close()
        self._phase = phase
        self._status = self._console.status(phase)
        self._status.start()

    def note(self, text: str) -> None:
        if self._status is not None:
            self._status.update(f"{self._phase}  [dim]{_plain(text)}[/dim]")

    def done(self, phase: str, took_s: float, detail: str = "") -> None:
        self.close()
        self._console.print(
            f"[green]✓[/green] {phase} [dim]{took_s:.1f} s  {_plain(detail)}[/dim]",
            highlight=False,
        )

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


class LineProgress:
    """Plain lines, for a log file or a pipe; a note is written only when it differs."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._last_note = ""

    def begin(self, phase: str) -> None:
        self._last_note = ""
        self._write(f"{phase} …")

    def note(self, text: str) -> None:
        if text != self._last_note:
            self._last_note = text
            self._write(f"    {text}")

    def done(self, phase: str, took_s: float, detail: str = "") -> None:
        self._write(f"{phase}: done after {took_s:.1f} s {detail}".rstrip())

    def say(self, text: str) -> None:
        self._write(text)

    def close(self) -> None:
        return


def progress_on(console: Console) -> Progress:
    """The one that fits where the console writes to."""
    if console.is_terminal:
        return TerminalProgress(console)
    return LineProgress(lambda line: print(line, flush=True))


def _plain(text: str) -> str:
    """Brackets are markup to rich."""
    return text.replace("[", r"\[")
