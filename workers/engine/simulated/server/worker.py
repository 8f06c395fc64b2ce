"""One simulated worker: its ranks, its events and its door, started, broken and stopped as one.

It serves on a socket that is bound already, so that its address is known before. It promises
vLLM's paths and answers (`routes`), and to break only when it is told to (`breaking`).
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rhizome.clock import Clock
from rhizome.errors import EngineFailed
from rhizome.fleet.records import EventSource
from rhizome.tasks import Tasks
from workers.engine.simulated.profile import EngineProfile
from workers.engine.simulated.server.events import EventPlace, Publisher
from workers.engine.simulated.server.http import Connection, Exchange
from workers.engine.simulated.server.pace import Pace
from workers.engine.simulated.server.rank import Rank
from workers.engine.simulated.server.refusals import unknown_model
from workers.engine.simulated.server.routes import Routes
from workers.engine.simulated.server.words import Words

_BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What one worker serves and how."""

    model: str
    """The served name."""
    model_root: str
    profile: EngineProfile
    data_parallel: int = 1
    adapters: Mapping[str, str] = field(default_factory=dict)
    """LoRA adapters: path by name."""
    api_key: str | None = None
    """Bearer key that every path but `/health` demands."""
    seed: int = 0
    events: EventPlace | None = None
    tool_parser: bool = False
    """Whether tool calls are read, in the Hermes form."""
    scale_out: bool = False
    """Whether prompts are rendered for others, as with vLLM's `--enable-scale-out`."""
    breakable: bool = False
    """Whether `/simulate/fault` is there, for clients on loopback."""


class SimulatedWorker:
    """A worker between `start` and `stop`."""

    def __init__(
        self, setup: WorkerSetup, listener: socket.socket, words: Words, clock: Clock
    ) -> None:
        self.setup = setup
        self.words = words
        self.clock = clock
        self.pace = Pace(clock)
        self.ranks: Sequence[Rank] = ()
        self.publishers: list[Publisher] = []
        self.crashed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done, with the cause, once it has died."""
        self.connections: set[Connection] = set()
        self.tasks = Tasks(f"simulated-{listener.getsockname()[1]}")
        self._numbers = itertools.count()
        self._listener = listener
        self._address = listener.getsockname()
        self._server: asyncio.Server | None = None
        self._routes = Routes(self)

    @property
    def sources(self) -> tuple[EventSource, ...]:
        return tuple(one.source for one in self.publishers)

    @property
    def port(self) -> int:
        return int(self._address[1])

    @property
    def in_flight(self) -> int:
        return sum(rank.in_flight for rank in self.ranks)

    async def start(self) -> None:
        """Serves; raises `EngineFailed`."""
        setup = self.setup
        await self.tasks.__aenter__()
        try:
            if setup.events is not None and setup.profile.prefix_caching:
                for rank in range(setup.data_parallel):
                    self.publishers.append(Publisher(setup.events, rank, self.clock))
            publishers: Sequence[Publisher | None] = self.publishers or [None] * setup.data_parallel
            self.ranks = tuple(Rank(setup.profile, self.pace, one) for one in publishers)
            for publisher in self.publishers:
                self.tasks.start("replay", publisher.answer_replays())
            await self.listen()
        except OSError as error:
            raise EngineFailed(f"cannot serve on {self._address}: {error}") from error

    async def listen(self) -> None:
        """Accepts connections, again after `refuse`."""
        if self._listener.fileno() < 0:
            family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
            self._listener = socket.socket(family, socket.SOCK_STREAM)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(self._address[:2])
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self), sock=self._listener, backlog=_BACKLOG
        )

    def refuse(self) -> None:
        """Closes the listening socket; what is connected stays."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._listener.close()

    def reset_connections(self, asked: Exchange | None = None) -> None:
        """Cuts all connections; the one that asked for it gets its answer first."""
        for connection in tuple(self.connections):
            if asked is not None and asked.is_on(connection):
                connection.close()
            else:
                connection.reset()

    def mute_connections(self, asked: Exchange | None = None) -> None:
        """Makes all connections half-open but the one that asked for it."""
        for connection in self.connections:
            connection.mute = asked is None or not asked.is_on(connection)

    def run_at(self, rate: float) -> None:
        """Lets engine time pass at `rate`; 0 stops it."""
        for rank in self.ranks:
            rank.pause()
        self.pace.run(rate)
        for rank in self.ranks:
            rank.resume()

    def crash(self, cause: str, *, for_good: bool, asked: Exchange | None = None) -> None:
        """Dies as a process does: sockets close, nothing is answered any more."""
        self.refuse()
        self.restart(asked)
        if for_good:
            for publisher in self.publishers:
                publisher.close()
            if not self.crashed.done():
                self.crashed.set_result(cause)

    async def revive(self) -> None:
        """After a crash that was not for good: a new life."""
        self.restart()
        await self.listen()

    def restart(self, asked: Exchange | None = None) -> None:
        """A new life in place: the same ports, an empty cache, sequences from 0."""
        self.reset_connections(asked)
        for rank in self.ranks:
            rank.restart()

    async def stop(self) -> None:
        """Closes everything; may be called more than once."""
        self.refuse()
        for connection in tuple(self.connections):
            connection.close()
        for rank in self.ranks:
            rank.pause()
        await self.tasks.close()
        for publisher in self.publishers:
            publisher.close()
        if not self.crashed.done():
            self.crashed.cancel()

    def rank_for(self, wanted: int | None) -> Rank:
        """The rank asked for, else the one with the fewest requests."""
        if wanted is not None:
            return self.ranks[wanted]
        return min(self.ranks, key=lambda rank: rank.in_flight)

    def check_model(self, name: str | None) -> None:
        """Raises `Refusal` for a model that is not served here; no name means the model itself."""
        setup = self.setup
        if name and name != setup.model and name not in setup.adapters:
            raise unknown_model(name, setup.model)

    def name_of_next(self) -> str:
        """A name for a sequence, unique in this worker."""
        return f"s{next(self._numbers)}"

    # Door

    def handle(self, exchange: Exchange) -> None:
        self._routes.handle(exchange)

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
