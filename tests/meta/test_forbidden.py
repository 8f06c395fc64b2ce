"""What must not be used, or only in the one file that owns it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.meta.sources import (
    PURE,
    Source,
    dotted,
    everything,
    product,
    report,
    snippet,
    uses,
)

OWNED = {
    r"os\.(environ|environb|getenv|putenv|unsetenv)(\..*)?": (
        ("rhizome/settings/load.py",),
        "Read the environment through the settings (rhizome/settings/load.py):",
    ),
    r"time\.(time|monotonic|perf_counter|process_time)(_ns)?": (
        ("rhizome/clock.py",),
        "Take a Clock, or the time, as an argument (rhizome/clock.py):",
    ),
    r"datetime\.(datetime\.)?(now|utcnow|today)": (
        (),
        "Take a Clock, or the time, as an argument (rhizome/clock.py):",
    ),
    r"asyncio\.(create_task|ensure_future)|.*loop(\(\))?\.create_task": (
        ("rhizome/tasks.py",),
        "Start background work through its owner (rhizome/tasks.py):",
    ),
    r"asyncio\.wait_for": (
        (),
        "Use asyncio.timeout: before Python 3.12 wait_for may lose a cancellation:",
    ),
    r"(numpy\.|np\.)?random\.(?!Random$|Generator$|PCG64$)\w+(\..*)?": (
        (),
        "Take a random.Random as an argument; module-level chance cannot be seeded:",
    ),
    r"(pickle|cloudpickle|dill|marshal|shelve)(\..*)?|torch\.load": (
        (),
        "Use msgspec or JSON; these run code that came from outside:",
    ),
}

BROAD_EXCEPTS = {
    "router/dispatch.py": "a request goes on without the part that failed (router.faults)",
    "router/service.py": "a request goes on without the part that failed (router.faults)",
    "router/verifier.py": "a request goes on without the part that failed (router.faults)",
    "router/standings.py": "a request goes on without the part that failed (router.faults)",
    "router/decisions/shadows.py": "a policy that only watches must not fail a request",
    "router/http/generation.py": "the HTTP border: whatever fails, the client gets a response",
    "router/http/server/app.py": "the HTTP border: whatever fails, the client gets a response",
    "router/render/rendering.py": "a model's own files may fail in any way; the request goes on",
    "router/render/lane.py": "what a thread's work raises is raised again where it is awaited",
}


@pytest.mark.parametrize("pattern", OWNED)
def test_a_thing_that_has_an_owner_is_used_there_only(pattern: str) -> None:
    owners, advice = OWNED[pattern]
    matching = re.compile(rf"(?:{pattern})\Z")
    report(
        [
            f"{source.at(node)}: {name}"
            for source, node, name in uses()
            if matching.match(name) and not source.within(*owners)
        ],
        advice,
    )


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.environ['A']",
        "from os import getenv as get\nget('A')",
        "import time\ntime.monotonic()",
        "from time import perf_counter as now\nnow()",
        "from datetime import datetime\ndatetime.now()",
        "import asyncio\nasyncio.get_running_loop().create_task(x)",
        "import asyncio as aio\naio.ensure_future(x)",
        "from asyncio import wait_for\nwait_for(x, 1)",
        "import random\nrandom.choice([1])",
        "from random import shuffle\nshuffle([1])",
        "import numpy as np\nnp.random.seed(1)",
        "import pickle\npickle.loads(b'')",
        "from torch import load\nload('x')",
    ],
)
def test_the_rules_on_owners_see_this(text: str) -> None:
    names = [name for _, name in snippet(text).names()]
    assert any(re.fullmatch(pattern, name) for pattern in OWNED for name in names)


@pytest.mark.parametrize(
    "text",
    [
        "from random import Random\nRandom(1).choice([1])",
        "import numpy\nnumpy.random.Generator(numpy.random.PCG64(1))",
        "async def f(group):\n    group.create_task(x)",
        "def f(clock):\n    clock.time()",
        "import asyncio\nasyncio.sleep(1)",
    ],
)
def test_the_rules_on_owners_let_this_pass(text: str) -> None:
    names = [name for _, name in snippet(text).names()]
    assert not [name for pattern in OWNED for name in names if re.fullmatch(pattern, name)]


@pytest.mark.parametrize(
    ("text", "broad"),
    [
        ("try:\n    pass\nexcept:\n    pass", True),
        ("try:\n    pass\nexcept Exception:\n    raise ValueError from None", True),
        ("try:\n    pass\nexcept (OSError, Exception):\n    pass", True),
        ("try:\n    pass\nexcept BaseException:\n    x = 1\n    raise", False),
        ("try:\n    pass\nexcept OSError:\n    pass", False),
    ],
)
def test_the_rule_on_broad_excepts_sees_those_that_swallow(text: str, broad: bool) -> None:
    assert bool(list(_broad_handlers(snippet(text)))) == broad


def test_nothing_is_evaluated_or_loaded_unsafely() -> None:
    report(
        [
            f"{source.at(call)}: {dotted(call.func)}"
            for source in everything()
            for call in ast.walk(source.tree)
            if isinstance(call, ast.Call) and _is_unsafe(call)
        ],
        "Parse the text, or use yaml.safe_load:",
    )


def test_there_is_no_global_statement() -> None:
    report(
        [
            source.at(node)
            for source in everything()
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Global)
        ],
        "Keep state in an object that is handed to those who need it:",
    )


def test_broad_excepts_are_rare_and_known() -> None:
    report(
        [
            source.at(handler)
            for source in product()
            if source.path not in BROAD_EXCEPTS
            for handler in _broad_handlers(source)
        ],
        "Name the exceptions, end the handler with a bare `raise`, or (at a border) add the file "
        "and the reason to BROAD_EXCEPTS:",
    )


def test_what_is_allowed_is_still_there() -> None:
    broad = {source.path for source in product() for _ in _broad_handlers(source)}
    owners = {path for paths, _ in OWNED.values() for path in paths}
    gone = owners - {source.path for source in product()}
    report(sorted((set(BROAD_EXCEPTS) - broad) | gone), "Take these out of the lists here:")


def test_pure_packages_take_chance_as_an_argument() -> None:
    report(
        [
            source.at(node)
            for source in product()
            if source.within(*PURE)
            for node in ast.walk(source.tree)
            if _imports_random_itself(node)
        ],
        "A pure package may import the type only (`from random import Random`):",
    )


def _is_unsafe(call: ast.Call) -> bool:
    name = dotted(call.func)
    if name in {"yaml.load", "yaml.load_all"}:
        loaders = [dotted(word.value) for word in call.keywords if word.arg == "Loader"]
        return not any("Safe" in loader for loader in loaders)
    return name in {"eval", "exec", "yaml.unsafe_load", "yaml.full_load"}


def _broad_handlers(source: Source) -> Iterator[ast.ExceptHandler]:
    """Handlers of everything that do not end by raising the same again."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.ExceptHandler) or not _is_broad(node.type):
            continue
        last = node.body[-1]
        if not (isinstance(last, ast.Raise) and last.exc is None):
            yield node


def _is_broad(kind: ast.expr | None) -> bool:
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(one is None or dotted(one) in {"Exception", "BaseException"} for one in kinds)


def _imports_random_itself(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] == "random" for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return node.module == "random" and any(alias.name != "Random" for alias in node.names)
    return False
