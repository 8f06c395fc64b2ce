"""What the leading controller says of itself, for `rhizome status`: one document, replaced.

It is written by the leader only and read by anybody; nothing is decided from it.
"""

from __future__ import annotations

import msgspec

from rhizome.stores.documents import Documents

_KIND, _ID = "controller", "report"
QUIET_S = 5.0
"""A report that says nothing new is written again after this time, as a sign of life."""


class ModelReport(msgspec.Struct, frozen=True, kw_only=True):
    """One model's target, and why."""

    target: int
    ready: int
    min_workers: int
    max_workers: int
    scaling: str
    """The autoscaler's reason, e.g. `steady`."""
    explain: str = ""
    trouble: str = ""
    """Why workers cannot be started; empty when they can."""


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One managed worker, as the controller sees it."""

    model: str
    living: bool
    leaving: bool = False
    deaths: int = 0
    """Deaths without a calm stretch between."""
    cause: str = ""
    """Of the last death."""
    waiting: str = ""
    """Why it has not registered yet."""


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened."""

    at_wall_s: float
    text: str


class ControllerReport(msgspec.Struct, frozen=True, kw_only=True):
    """The leader's view."""

    controller_id: str
    at_wall_s: float
    trouble: str = ""
    """Why nothing is being done, e.g. Ray does not answer; empty when all is well."""
    models: dict[str, ModelReport] = {}
    workers: dict[str, WorkerReport] = {}
    notices: tuple[Notice, ...] = ()
    """The newest last."""


class ReportBoard:
    """The place of the report."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._written: ControllerReport | None = None

    async def write(self, report: ControllerReport) -> None:
        """Replaces the report, unless it says what the last one said a moment ago."""
        before = self._written
        if (
            before is not None
            and report.at_wall_s - before.at_wall_s < QUIET_S
            and msgspec.structs.replace(before, at_wall_s=report.at_wall_s) == report
        ):
            return
        body = msgspec.json.encode(report)
        stored = await self._documents.get(_KIND, _ID)
        if stored is None:
            await self._documents.create(_KIND, _ID, body)
        else:
            await self._documents.replace(_KIND, _ID, stored[0], body)
        self._written = report

    async def read(self) -> ControllerReport | None:
        """The last report; None when there is none that this version can read."""
        stored = await self._documents.get(_KIND, _ID)
        if stored is None:
            return None
        try:
            return msgspec.json.decode(stored[1], type=ControllerReport)
        except msgspec.MsgspecError:
            return None
