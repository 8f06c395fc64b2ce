"""The processes of Rhizome itself in a local cluster: started, and started again when they die."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cluster.local.layout import ClusterFiles
from cluster.local.processes import ChildProcess
from cluster.local.ray_head import ray_environment
from cluster.local.restarts import RestartBudget
from rhizome.clock import Clock
from rhizome.errors import ClusterError
from rhizome.settings.load import PREFIX, environment_copy

_RESTARTS_MAX = 5
_WINDOW_S = 120.0
_FIRST_PAUSE_S = 0.5


def service_command(name: str, settings_file: Path) -> list[str]:
    """`rhizome NAME --config FILE` with this interpreter."""
    return [sys.executable, "-m", "rhizome.cli.main", name, "--config", str(settings_file)]


def child_environment(files: ClusterFiles) -> dict[str, str]:
    """This environment, less the settings in it: they are in the settings file already.

    Byte code may be written: without it every start of an engine compiles its sources again.
    """
    inherited = {
        name: value
        for name, value in environment_copy().items()
        if not name.startswith(PREFIX) and name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**inherited, **ray_environment(files.ray_token)}


@dataclass
class _Service:
    child: ChildProcess
    grace_s: float
    budget: RestartBudget = field(
        default_factory=lambda: RestartBudget(_RESTARTS_MAX, _WINDOW_S, _FIRST_PAUSE_S)
    )
    due_s: float | None = None
    """When it is to be started again; None while it runs."""


class Services:
    """A set of services by name, each a child process with a log of its own."""

    def __init__(
        self,
        files: ClusterFiles,
        environment: Mapping[str, str],
        clock: Clock,
        say: Callable[[str], None],
    ) -> None:
        """`say` is told of deaths and restarts."""
        self._files = files
        self._environment = environment
        self._clock = clock
        self._say = say
        self._services: dict[str, _Service] = {}
        self.restarting = False
        """Whether a death leads to a restart (once the cluster is ready) or to an error."""

    def start(self, name: str, command: Sequence[str], grace_s: float) -> None:
        """Starts the service; its log begins anew. `grace_s` is its time to end after SIGTERM."""
        log = self._files.log(name)
        log.unlink(missing_ok=True)
        child = ChildProcess(
            name, command, environment=self._environment, log=log, clock=self._clock
        )
        child.start()
        self._services[name] = _Service(child, grace_s)

    def pids(self) -> dict[str, int]:
        return {
            name: service.child.pid
            for name, service in self._services.items()
            if service.child.pid is not None and service.child.running()
        }

    def check(self) -> bool:
        """Starts again what died; True when that changed a process.

        Raises `ClusterError` with the end of the log for one that may not be started again.
        """
        changed = False
        for service in self._services.values():
            if service.due_s is not None:
                changed |= self._start_due(service)
            elif not service.child.running():
                self._plan_restart(service)
        return changed

    async def stop(self, *names: str) -> None:
        """Ends those services at once, each within its grace."""
        chosen = [self._services.pop(name) for name in names if name in self._services]
        ended = await asyncio.gather(*(one.child.stop(one.grace_s) for one in chosen))
        for service, in_order in zip(chosen, ended, strict=True):
            if not in_order:
                self._say(f"{service.child.name} did not end within {service.grace_s:g} s: killed")

    def kill(self) -> None:
        """SIGKILL to all that run: whoever waits in `stop` returns at once."""
        for service in self._services.values():
            service.child.kill()

    def _start_due(self, service: _Service) -> bool:
        if service.due_s is None or self._clock.monotonic_s() < service.due_s:
            return False
        service.due_s = None
        service.child.start()
        self._say(f"{service.child.name} was started again")
        return True

    def _plan_restart(self, service: _Service) -> None:
        child, now_s = service.child, self._clock.monotonic_s()
        what = f"{child.name} {child.explain_exit()}"
        pause_s = service.budget.spend(now_s) if self.restarting else None
        if pause_s is None:
            often = f", after {_RESTARTS_MAX} restarts" if self.restarting else ""
            raise ClusterError(
                f"{what}{often}. The end of its log:\n{child.log_tail()}",
                advice=f"The whole log is {child.log}.",
            )
        service.due_s = now_s + pause_s
        self._say(f"{what}; it starts again in {pause_s:g} s. The end of its log:")
        self._say(child.log_tail(4))
