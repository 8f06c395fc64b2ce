"""Workers as detached, named Ray actors; the only place of the controller that talks to Ray.

Promises: no call blocks the event loop or lasts longer than its deadline; actors outlive the
controller, and their names make a second start of one id a no-op; Ray restarts a died process for
as long as nobody stops it. Requests never pass through here.

Left out: what an actor does (`workers/actor.py`), and when to start or stop one
(`cluster/reconcile.py`).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cluster.hosts import HostView
from cluster.placement import NodeResources, Placement, place
from rhizome.errors import ClusterError, MissingDependency
from rhizome.fleet.models import ModelSpec

_log = logging.getLogger(__name__)
T = TypeVar("T")

_PREFIX = "worker:"
_THREADS = 8
_KNOCK_S = 3.0
_CONNECT_S = 30.0
_CALL_S = 10.0
_STOP_S = 20.0


class RayWorkers:
    """A `WorkerHost` on a Ray cluster."""

    def __init__(
        self, address: str, namespace: str, actor_class: type[Any], settings_json: str
    ) -> None:
        """`actor_class` is made with `(worker_id, spec_json, settings_json)` and has the coroutines
        `drain(grace_s)` and `stop()`; it is not decorated by Ray yet."""
        self._address = address
        self._namespace = namespace
        self._actor_class = actor_class
        self._settings_json = settings_json
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="ray")
        self._births: dict[str, Any] = {}
        """A pending call to every worker that has not answered one yet."""
        self._answered: set[str] = set()

    async def connect(self) -> None:
        """Connects to the cluster; raises `ClusterError`, or `MissingDependency` without Ray."""
        await self._call(self._connect, _CONNECT_S)

    async def close(self) -> None:
        """Disconnects; workers go on."""
        try:
            await self._call(self._disconnect, _CALL_S)
        except ClusterError as error:
            _log.warning("%s", error.message)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def look(self) -> HostView:
        return await self._call(self._look, _CALL_S)

    async def start(self, worker_id: str, spec: ModelSpec) -> None:
        await self._call(lambda: self._start(worker_id, spec), _CALL_S)

    async def drain(self, worker_id: str, grace_s: float) -> None:
        await self._ask(worker_id, "drain", grace_s + _CALL_S, grace_s)

    async def stop(self, worker_id: str) -> None:
        await self._ask(worker_id, "stop", _STOP_S)
        await self._call(lambda: self._end(worker_id), _CALL_S)

    async def _ask(self, worker_id: str, method: str, deadline_s: float, *args: object) -> None:
        """Calls the actor, if it is there; that it does not answer is said, and is no error: it may
        be dead, and whoever asks wants its end."""
        import ray.exceptions

        answer = await self._call(lambda: self._submit(worker_id, method, *args), _CALL_S)
        if answer is None:
            return
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.wrap_future(answer.future())
        except TimeoutError:
            _log.warning("worker %s did not %s within %g s", worker_id, method, deadline_s)
        except ray.exceptions.RayError as error:
            _log.warning("worker %s could not %s: %s", worker_id, method, _cause(error))

    async def _call(self, work: Callable[[], T], deadline_s: float) -> T:
        import ray.exceptions

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(deadline_s):
                return await loop.run_in_executor(self._threads, work)
        except TimeoutError as error:
            raise ClusterError(
                f"Ray at {self._address} does not answer within {deadline_s:g} s",
                advice="Look at the Ray head: `ray status` on its node.",
            ) from error
        except (ray.exceptions.RayError, ConnectionError, RuntimeError) as error:
            told = isinstance(error.__cause__, ray.exceptions.RayError)
            cause = error.__cause__ if told else error
            words = str(cause).strip().partition("\n")[0] or type(cause).__name__
            raise ClusterError(
                f"Ray at {self._address} fails: {words}",
                advice="Look at the Ray head, and at RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH here.",
            ) from error

    def _connect(self) -> None:
        import ray

        if not ray.is_initialized():
            self._knock()
            ray.init(
                address=self._address,
                namespace=self._namespace,
                configure_logging=False,
                log_to_driver=False,
            )

    def _knock(self) -> None:
        """Raises `ConnectionError` where nobody listens; Ray itself would try for minutes."""
        host, _, port = self._address.removeprefix("ray://").rpartition(":")
        if not host or not port.isdecimal():
            return
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
        except OSError as error:
            raise ConnectionError(f"nobody listens there ({error.strerror or error})") from error

    def _disconnect(self) -> None:
        import ray

        ray.shutdown()

    def _look(self) -> HostView:
        import ray
        import ray.util

        self._connect()
        named = ray.util.list_named_actors(all_namespaces=True)
        living = {
            entry["name"].removeprefix(_PREFIX)
            for entry in named
            if entry["namespace"] == self._namespace and entry["name"].startswith(_PREFIX)
        }
        return HostView(
            living=frozenset(living), faults=self._faults(living), nodes=_nodes(ray.nodes())
        )

    def _faults(self, living: set[str]) -> dict[str, str]:
        """The deaths of processes that never answered: they could not tell anybody else."""
        import ray
        import ray.exceptions

        faults = {}
        for worker_id, answer in list(self._births.items()):
            if not ray.wait([answer], timeout=0)[0]:
                continue
            del self._births[worker_id]
            try:
                ray.get(answer)
                self._answered.add(worker_id)
            except ray.exceptions.RayError as error:
                faults[worker_id] = _cause(error)
        self._answered &= living
        for worker_id in living - self._answered - self._births.keys():
            actor = self._actor(worker_id)
            if actor is not None:
                self._births[worker_id] = actor.__ray_ready__.remote()
        return faults

    def _start(self, worker_id: str, spec: ModelSpec) -> None:
        import ray

        self._connect()
        if self._actor(worker_id) is not None:
            return
        placed = place(spec, _nodes(ray.nodes()))
        actor = (
            ray.remote(self._actor_class)
            .options(
                name=_PREFIX + worker_id,
                namespace=self._namespace,
                lifetime="detached",
                get_if_exists=True,
                max_restarts=-1,
                **_demand(placed),
                **self._group_options(worker_id, placed),
            )
            .remote(worker_id, spec.model_dump_json(), self._settings_json)
        )
        self._births[worker_id] = actor.__ray_ready__.remote()

    def _group_options(self, worker_id: str, placed: Placement) -> dict[str, Any]:
        if not placed.needs_group:
            return {}
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._remove_group(worker_id)
        group = placement_group(
            [dict(bundle) for bundle in placed.bundles],
            strategy=placed.strategy,
            name=self._group_name(worker_id),
            lifetime="detached",
        )
        return {
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
            )
        }

    def _submit(self, worker_id: str, method: str, *args: object) -> Any | None:
        self._connect()
        actor = self._actor(worker_id)
        if actor is None or worker_id in self._births:
            return None  # gone, or not there yet: it has nothing to finish
        return getattr(actor, method).remote(*args)

    def _end(self, worker_id: str) -> None:
        import ray

        actor = self._actor(worker_id)
        if actor is not None:
            ray.kill(actor, no_restart=True)
        self._births.pop(worker_id, None)
        self._answered.discard(worker_id)
        self._remove_group(worker_id)

    def _actor(self, worker_id: str) -> Any | None:
        import ray

        try:
            return ray.get_actor(_PREFIX + worker_id, namespace=self._namespace)
        except ValueError:
            return None

    def _group_name(self, worker_id: str) -> str:
        return f"{self._namespace}:{worker_id}"

    def _remove_group(self, worker_id: str) -> None:
        from ray.util.placement_group import get_placement_group, remove_placement_group

        try:
            group = get_placement_group(self._group_name(worker_id))
        except ValueError:
            return
        remove_placement_group(group)


def require_ray() -> None:
    """Raises `MissingDependency` where Ray is not installed."""
    try:
        import ray  # noqa: F401 - only to see whether it is there
    except ImportError as error:
        raise MissingDependency(
            "Ray is not installed", advice="Install the extra: `pip install 'rhizome[cluster]'`."
        ) from error


def _demand(placed: Placement) -> dict[str, Any]:
    """The actor's own demand: chunk 0, where it and its ranks run."""
    resources = dict(placed.bundles[0])
    return {
        "num_cpus": resources.pop("CPU", 0.0),
        "num_gpus": resources.pop("GPU", 0.0),
        "resources": resources,
    }


def _nodes(table: list[dict[str, Any]]) -> tuple[NodeResources, ...]:
    return tuple(
        NodeResources(node=entry["NodeManagerHostname"], resources=entry.get("Resources", {}))
        for entry in table
        if entry["Alive"]
    )


def _cause(error: Exception) -> str:
    """The last line of a Ray error that says something: the actor's own exception, if there was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
