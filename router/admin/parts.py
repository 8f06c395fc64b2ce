"""What the admin API looks at and acts upon."""

from __future__ import annotations

from dataclasses import dataclass

from rhizome.clock import Clock
from rhizome.stores.desired import DesiredState
from router.admin.audit import AuditLog
from router.admin.tenants import Tenants
from router.decisions.ring import DecisionRing
from router.discovery.by_hand import HandBook
from router.discovery.static import StaticDiscovery
from router.dispatch import Dispatcher
from router.fleet import Fleet
from router.gate import Gate
from router.keys import KeyRing
from router.service import Service


@dataclass(frozen=True, slots=True)
class Parts:
    """The router's parts."""

    service: Service
    static: StaticDiscovery
    by_hand: HandBook
    desired: DesiredState
    shares_registry: bool
    """Whether there is a registry whose workers other processes see, too."""
    keys: KeyRing
    """The clients' keys."""
    tenants: Tenants
    audit: AuditLog

    @property
    def router_id(self) -> str:
        return self.service.dispatcher.router_id

    @property
    def fleet(self) -> Fleet:
        return self.service.fleet

    @property
    def dispatcher(self) -> Dispatcher:
        return self.service.dispatcher

    @property
    def gate(self) -> Gate:
        return self.service.gate

    @property
    def decisions(self) -> DecisionRing:
        return self.service.decisions

    @property
    def clock(self) -> Clock:
        return self.service.clock
