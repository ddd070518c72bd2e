"""The whole application on the test's database, with Graph replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import respx
import stamina

from app import arrival
from tests.app.graph import FakeGraph
from tests.app.service import GRAPH_HOST, Service, running, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(autouse=True)
def _no_waiting_between_attempts() -> Iterator[None]:
    stamina.set_testing(testing=True, attempts=2, cap=True)
    yield
    stamina.set_testing(testing=False)


@pytest.fixture(scope="session", autouse=True)
def _patient_start() -> Iterator[None]:
    """Whether this machine is quick is no question: where its database is there, a service starts with it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrival, "START_WITHIN_SECONDS", 60.0)
        yield


@pytest.fixture
def graph() -> Iterator[FakeGraph]:
    """Graph, as far as this process can tell."""
    fake = FakeGraph()
    with respx.mock(assert_all_called=False) as router:
        router.route(host="127.0.0.1").pass_through()
        router.route(host=GRAPH_HOST).mock(side_effect=fake.respond)
        yield fake


@pytest.fixture
async def service(database: str, graph: FakeGraph) -> AsyncIterator[Service]:
    """The application without its reconciler: what is queued stays queued."""
    assert graph
    async with running(settings_for(database)) as made:
        yield made


@pytest.fixture
async def syncing(database: str, graph: FakeGraph) -> AsyncIterator[Service]:
    """The application with its reconciler."""
    assert graph
    async with running(settings_for(database, reconciler_enabled=True)) as made:
        yield made
