import io

from rich.console import Console

from cluster.local.progress import LineProgress, Progress, TerminalProgress, progress_on


def tell(progress: Progress) -> None:
    progress.begin("Workers")
    progress.note("m 0/2 [loading]")
    progress.note("m 0/2 [loading]")
    progress.note("m 2/2")
    progress.done("Workers", 12.34)
    progress.say("[ready]")
    progress.close()


def test_lines_for_a_log_are_plain_and_say_nothing_twice() -> None:
    lines: list[str] = []
    tell(LineProgress(lines.append))
    assert lines == [
        "Workers …",
        "    m 0/2 [loading]",
        "    m 2/2",
        "Workers: done after 12.3 s",
        "[ready]",
    ]


def test_a_terminal_shows_finished_phases_and_keeps_brackets() -> None:
    screen = io.StringIO()
    tell(TerminalProgress(Console(file=screen, force_terminal=True, color_system=None)))
    shown = screen.getvalue()
    assert "✓ Workers 12.3 s" in shown
    assert "m 2/2" in shown
    assert "[ready]" in shown


def test_a_pipe_gets_plain_lines() -> None:
    assert isinstance(progress_on(Console(file=io.StringIO())), LineProgress)
    terminal = Console(file=io.StringIO(), force_terminal=True)
    assert isinstance(progress_on(terminal), TerminalProgress)
