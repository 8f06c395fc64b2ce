"""The controller process: leads, or stands by; its lead does the work (`cluster/lead.py`).

Promises: only the leader acts, and stops between two actions when the lead is gone; what is already
running is adopted, so a restart changes nothing; when the store or Ray cannot be asked, nothing is
done and that is said. Traffic needs none of this.
"""

from __future__ import annotations

import asyncio
import logging

from cluster.lead import Lead, Office
from cluster.leader import Leadership
from rhizome.errors import ClusterError, StoreUnavailable
from rhizome.ids import new_id
from rhizome.tasks import Tasks

_log = logging.getLogger(__name__)


class Controller:
    """One controller process."""

    def __init__(self, office: Office) -> None:
        self.controller_id = new_id("controller")
        self._office = office
        self._interval_s = office.settings.controller.interval_s
        self._leadership = Leadership(
            office.stores.lease,
            self.controller_id,
            office.settings.controller.leader_ttl_s,
            office.clock,
        )
        self._trouble = ""

    def health(self) -> dict[str, object]:
        """What `/health` says."""
        return {
            "controller_id": self.controller_id,
            "leading": self._leadership.leading,
            "trouble": self._trouble,
        }

    async def run(self) -> None:
        """Leads whenever it can, until cancelled; raises what the leading loop raised (a bug)."""
        metrics = self._office.metrics
        try:
            while True:
                await self._leadership.campaign()
                metrics.led(leading=True)
                async with Tasks("controller") as tasks:
                    lead = tasks.start("lead", self._lead(tasks))
                    keep = tasks.start("keep the lead", self._leadership.keep())
                    done, _ = await asyncio.wait((lead, keep), return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                metrics.led(leading=False)
        finally:
            await self._leadership.resign()

    async def _lead(self, tasks: Tasks) -> None:
        lead = Lead(self.controller_id, self._office, lambda: self._leadership.leading, tasks)
        while True:
            result, trouble = await self._step(lead)
            self._office.metrics.stepped(result)
            if trouble != self._trouble:
                _log.warning("%s", trouble or "store and Ray answer again")
            self._trouble = trouble
            await self._office.clock.sleep(self._interval_s)

    async def _step(self, lead: Lead) -> tuple[str, str]:
        """One step's result, as a metric label and as trouble in words."""
        try:
            with self._office.metrics.step_seconds.time():
                await lead.step()
        except StoreUnavailable as error:
            return error.code, f"the store does not answer: {error.message}"
        except ClusterError as error:
            trouble = f"{error.message}; nothing is started or ended until it answers"
            try:
                await lead.publish(trouble)
            except StoreUnavailable as silent:
                trouble = f"{trouble}; nor does the store: {silent.message}"
            return "cluster_unavailable", trouble
        return "ok", ""
