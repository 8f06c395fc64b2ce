"""`rhizome chat`: a conversation with a model, showing which worker answers and what it reused."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from rhizome.cli.conversation import Conversation, TurnFacts, open_router
from rhizome.cli.errors import explain
from rhizome.errors import ClusterError, StartError
from rhizome.settings.load import load_settings


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("chat")
    def chat(
        model: Annotated[
            str | None, typer.Option(help="Which model; without it the first one served.")
        ] = None,
        message: Annotated[
            list[str] | None,
            typer.Option("--message", "-m", help="Say this and end; repeat it for more turns."),
        ] = None,
        url: Annotated[str | None, typer.Option(help="The router, http://host:port.")] = None,
        name: Annotated[str | None, typer.Option(help="A local cluster's name.")] = None,
        api_key: Annotated[
            str | None, typer.Option(help="Key, if the router asks for one.")
        ] = None,
        max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    ) -> None:
        """Talk to a model. /new begins again; /quit or Ctrl-D ends."""
        where = url or local_url(name)
        asyncio.run(_talk(where, api_key, model, message or [], max_tokens))


def local_url(name: str | None) -> str:
    """The router of the local cluster; raises `ClusterError` when it does not run."""
    from cluster.local.layout import ClusterFiles
    from cluster.local.record import ClusterState, read_record

    settings = load_settings(flags={"name": name})
    record = read_record(ClusterFiles.of(settings.state_directory, settings.name))
    if record is None or record.state is not ClusterState.READY:
        raise ClusterError(
            f"no cluster named {settings.name!r} is ready on this machine",
            advice="Start one with `rhizome up`, or give the router's address with --url.",
        )
    return record.url


async def _talk(
    url: str, api_key: str | None, model: str | None, messages: list[str], max_tokens: int
) -> None:
    async with open_router(url, api_key) as router:
        served = await router.models()
        if not served:
            raise ClusterError("the router serves no model yet", advice="See `rhizome status`.")
        conversation = Conversation(router, model or served[0], max_tokens)
        for said in messages:
            _show(await conversation.turn(said, _write))
        if not messages:
            typer.echo(f"{conversation.model} at {url} (/new begins again, /quit ends)")
            await _converse(conversation)


async def _converse(conversation: Conversation) -> None:
    while (said := await asyncio.to_thread(_read_line)) is not None:
        if said == "/quit":
            return
        if said == "/new":
            conversation.forget()
            continue
        if not said:
            continue
        try:
            _show(await conversation.turn(said, _write))
        except StartError as error:
            explain(error)


def _read_line() -> str | None:
    """What was typed; None at the end of the input."""
    try:
        return input("> ").strip()
    except EOFError:
        return None


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _show(facts: TurnFacts) -> None:
    typer.echo("")
    typer.secho(f"[{facts.line()}]", dim=True)
