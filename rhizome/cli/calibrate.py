"""`rhizome calibrate`: measures a live engine and writes the profile that simulates it."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhizome.clock import SystemClock
from rhizome.errors import SettingsError

if TYPE_CHECKING:
    from loadtest.calibration.measuring import Course, Measured


AsyncScheduling = Annotated[
    bool | None,
    typer.Option(
        "--async-scheduling/--no-async-scheduling",
        help="Whether steps are decided one ahead; vLLM's default on GPUs.",
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="Where the profile is written (JSON).")
]
VocabularySize = Annotated[
    int | None, typer.Option(min=2, help="Token ids to draw from; found out if not given.")
]


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("calibrate")
    def calibrate(
        url: Annotated[str, typer.Argument(help="Base URL of an OpenAI-compatible engine.")],
        output: Output = Path("profile.json"),
        model: Annotated[str | None, typer.Option(help="Model; the first by default.")] = None,
        key_file: Annotated[Path | None, typer.Option(help="File with the API key.")] = None,
        name: Annotated[str | None, typer.Option(help="Name of the profile.")] = None,
        budget_s: Annotated[float, typer.Option(min=1.0, help="Seconds, at most.")] = 120.0,
        rounds: Annotated[int, typer.Option(min=1, help="Repeats of it all, at most.")] = 5,
        prompt_max: Annotated[int, typer.Option(min=64, help="Longest prompt to measure.")] = 8_192,
        sequences_max: Annotated[int, typer.Option(min=1, help="Most streams at once.")] = 64,
        vocab_size: VocabularySize = None,
        seed: Annotated[int, typer.Option(help="Seed of the prompts.")] = 1,
        gpu: Annotated[str, typer.Option(help="For the record: the GPU.")] = "",
        gpus: Annotated[int, typer.Option(help="For the record: GPUs of the engine; 0: CPU.")] = 1,
        block_size: Annotated[int | None, typer.Option(help="Tokens per KV block.")] = None,
        kv_blocks: Annotated[int | None, typer.Option(help="Blocks of the KV cache.")] = None,
        max_num_seqs: Annotated[int | None, typer.Option(help="Most running sequences.")] = None,
        max_num_batched_tokens: Annotated[int | None, typer.Option(help="Step's tokens.")] = None,
        max_model_len: Annotated[int | None, typer.Option(help="Longest sequence.")] = None,
        async_scheduling: AsyncScheduling = None,
    ) -> None:
        """Measure a live engine and write a profile for the simulated one.

        The engine should do nothing else meanwhile. What its API does not tell (cache, limits) is
        taken from the flags, else assumed; the profile says which.
        """
        from loadtest.calibration.machine import machine_facts
        from loadtest.calibration.measuring import Course
        from loadtest.calibration.writing import Given, profile_of, write_profile
        from rhizome.cli.load_options import check_outputs

        check_outputs(output)

        course = Course(
            time_s=budget_s,
            rounds_max=rounds,
            prompt_max=prompt_max,
            sequences_max=sequences_max,
            vocabulary=vocab_size,
            seed=seed,
        )
        machine = machine_facts()
        measured = asyncio.run(_measure(url, model, _key(key_file), course))
        given = Given(
            name=name or output.stem,
            gpu=gpu,
            gpus=gpus,
            block_size=block_size,
            kv_blocks=kv_blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_model_len=max_model_len,
            async_scheduling=async_scheduling,
        )
        profile = profile_of(measured, given, shlex.join(["rhizome", *sys.argv[1:]]), machine)
        write_profile(profile, output)
        _report(measured, output)


async def _measure(url: str, model: str | None, key: str | None, course: Course) -> Measured:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from loadtest.calibration.measuring import Measuring
    from loadtest.calibration.target import EngineTarget, open_session

    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    clock = SystemClock()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        shown = bar.add_task("connecting", total=1.0)

        def told(share: float, words: str) -> None:
            bar.update(shown, completed=share, description=words)

        async with open_session(key) as session:
            target = EngineTarget(session, url, clock)
            return await Measuring(target, course, clock, told).run(model)


def _key(key_file: Path | None) -> str | None:
    if key_file is None:
        return None
    try:
        return key_file.read_text().strip()
    except OSError as error:
        raise SettingsError(f"cannot read the key file {key_file}: {error.strerror}") from error


def _report(measured: Measured, output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    fitted = measured.fit()
    console = Console()
    costs = Table("cost", "value", title=f"{measured.served.model}: the step model")
    for name, value in fitted.costs._asdict().items():
        costs.add_row(name, f"{value:.4g}")
    console.print(costs)
    errors = Table("measurement", "count", "median error", "p90 error")
    for kind, each in fitted.errors.items():
        errors.add_row(kind, str(each.count), f"{each.median:.1%}", f"{each.p90:.1%}")
    console.print(errors)
    for words in measured.skipped:
        console.print(f"skipped: {words}", highlight=False)
    console.print(f"wrote {output}", highlight=False)
