"""One process's share of a run: sends each request at its time, whatever became of the others.

Bodies are written ahead, so that a request costs little when its time has come. A run that is
stopped ends what is in flight and keeps what is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.bodies import Answers, Body, BodyWriter
from loadtest.client.connection import Address, Connection, Connections, head_of
from loadtest.client.exchange import Exchange
from loadtest.client.lag import Lags
from loadtest.plan import Plan
from loadtest.records import ErrorKind, ProcessFacts, RequestRecord
from loadtest.workloads.requests import TracedRequest, key_of
from rhizome.clock import Clock
from rhizome.tasks import Tasks

_AHEAD = 64
_SWEEP_S = 0.25
_DRAIN_S = 0.05

Prepared = tuple[TracedRequest, Body | None]


@dataclass(frozen=True)
class Moment:
    """How a share stands."""

    sent: int
    done: int
    failed: int
    in_flight: int
    tokens: int
    """Chunks with content so far."""
    at_s: float


def share_of(requests: Iterator[TracedRequest], part: int, parts: int) -> Iterator[TracedRequest]:
    """The sessions that fall to process `part` of `parts`, whole."""
    for request in requests:
        if parts == 1 or key_of(request.session) % parts == part:
            yield request


class Share:
    """Runs once; `run` ends when all is answered, or soon after `stop`."""

    def __init__(
        self, plan: Plan, bodies: BodyWriter, clock: Clock, begin_monotonic_s: float
    ) -> None:
        address = Address.of(plan.url)
        self._plan = plan
        self._bodies = bodies
        self._clock = clock
        self._begin_s = begin_monotonic_s
        self._address = address
        self._connections = Connections(address, self.now_s, self._ended, plan.deadlines.connect_s)
        self._flying: dict[Exchange, Connection | None] = {}
        self._prepared: asyncio.Queue[Prepared | None] = asyncio.Queue(_AHEAD)
        self._stopped = asyncio.Event()
        self._lags = Lags(clock)
        self._sent = self._failed = self._tokens = 0
        self._real = self._made_up = 0
        self.records: list[RequestRecord] = []

    def now_s(self) -> float:
        """Seconds since the run's beginning."""
        return self._clock.monotonic_s() - self._begin_s

    def stop(self) -> None:
        """Ends the run; what is in flight is given up."""
        self._stopped.set()

    def moment(self) -> Moment:
        flying = sum(exchange.tokens for exchange in self._flying)
        return Moment(
            sent=self._sent,
            done=len(self.records) - self._failed,
            failed=self._failed,
            in_flight=len(self._flying),
            tokens=self._tokens + flying,
            at_s=self.now_s(),
        )

    async def run(self, requests: Iterator[TracedRequest]) -> ProcessFacts:
        """Sends them all; the facts are of the time until the last was sent."""
        async with Tasks("load") as tasks:
            self._lags = Lags(self._clock)
            watching = tasks.start("lag", self._lags.watch())
            tasks.start("deadlines", self._sweep())
            sending = tasks.start("send", self._send_all(requests, tasks))
            ends = (
                tasks.start("stop", self._stopped.wait()),
                tasks.start("faults", _raise_first(tasks)),
            )
            await asyncio.wait({sending, *ends}, return_when=asyncio.FIRST_COMPLETED)
            watching.cancel()
            facts = self._lags.facts(self._real, self._made_up)
            while self._flying and not any(end.done() for end in ends):
                await self._clock.sleep(_DRAIN_S)
            sending.cancel()
            for exchange in list(self._flying):
                self._give_up(exchange, ErrorKind.STOPPED, "the run was stopped")
            self._connections.close()
            if ends[1].done():
                await ends[1]
            return facts

    async def _send_all(self, requests: Iterator[TracedRequest], tasks: Tasks) -> None:
        writing = tasks.start("write", self._write_all(requests))
        while (prepared := await self._prepared.get()) is not None:
            request, body = prepared
            delay_s = request.at_s - self.now_s()
            if delay_s > 0:
                await self._clock.sleep(delay_s)
            self._begin(request, body, tasks)
        await writing

    async def _write_all(self, requests: Iterator[TracedRequest]) -> None:
        """Writes bodies ahead; those that hold real answers are written when they are sent."""
        late = self._bodies.answers is not None
        for request in requests:
            body = None if late else self._bodies.write(request)
            await self._prepared.put((request, body))
            await asyncio.sleep(0)
        await self._prepared.put(None)

    def _begin(self, request: TracedRequest, body: Body | None, tasks: Tasks) -> None:
        sent_s = self.now_s()
        self._lags.sent(max(0.0, sent_s - request.at_s))
        self._sent += 1
        if body is None:
            known, held = self._bodies.answers_known(request)
            self._real += known
            self._made_up += held - known
            body = self._bodies.write(request)
        exchange = Exchange(
            request, body.prompt_tokens, sent_s, keep_text=self._bodies.answers is not None
        )
        if len(self._flying) >= self._plan.in_flight_max:
            exchange.fail(ErrorKind.CLIENT_FULL, f"{self._plan.in_flight_max} are in flight")
            self._ended(exchange)
            return
        self._flying[exchange] = None
        connection = self._connections.idle()
        if connection is None:
            tasks.start("connect", self._connect(exchange, body))
        else:
            self._put(connection, exchange, body)

    async def _connect(self, exchange: Exchange, body: Body) -> None:
        try:
            connection = await self._connections.connect()
        except (OSError, TimeoutError) as error:
            if not exchange.over:
                exchange.fail(ErrorKind.CONNECT, str(error) or "no connection in time")
                self._ended(exchange)
            return
        if exchange.over:
            connection.abort()
        else:
            self._put(connection, exchange, body)

    def _put(self, connection: Connection, exchange: Exchange, body: Body) -> None:
        self._flying[exchange] = connection
        headers = {"x-request-id": f"load-{exchange.request.number}"}
        if key := self._plan.key_of(exchange.request.tenant):
            headers["authorization"] = f"Bearer {key}"
        connection.send(
            exchange, head_of(self._address, body.path, len(body.data), headers) + body.data
        )

    def _ended(self, exchange: Exchange) -> None:
        """An exchange is over, well or not."""
        self._flying.pop(exchange, None)
        self._tokens += exchange.tokens
        self._failed += exchange.error is not None
        self.records.append(exchange.record(self.now_s()))
        answers: Answers | None = self._bodies.answers
        if answers is not None and exchange.error is None:
            answers.keep(exchange.request.answer_key, exchange.text)

    def _give_up(self, exchange: Exchange, kind: ErrorKind, detail: str) -> None:
        connection = self._flying.get(exchange)
        if connection is not None:
            connection.abort()
        exchange.fail(kind, detail)
        self._ended(exchange)

    async def _sweep(self) -> None:
        deadlines = self._plan.deadlines
        while True:
            await self._clock.sleep(_SWEEP_S)
            now_s = self.now_s()
            for exchange in list(self._flying):
                if now_s - exchange.sent_s > deadlines.total_s:
                    self._give_up(exchange, ErrorKind.TIMEOUT, f"{deadlines.total_s:g} s in all")
                elif now_s - exchange.heard_s > deadlines.silence_s:
                    self._give_up(
                        exchange, ErrorKind.SILENCE, f"nothing for {deadlines.silence_s:g} s"
                    )


async def _raise_first(tasks: Tasks) -> None:
    """Raises what a task of the run failed of: a fault of the client itself."""
    raise await tasks.first_failure()
