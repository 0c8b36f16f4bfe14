"""Every session of this suite is had without digests, with each, and with both."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.rfc7143.initiator import Digests, RawInitiator
from tests.rfc7143.portal import Portal

DIGESTS = {
    "no-digest": Digests(),
    "header-digest": Digests(header=True),
    "data-digest": Digests(data=True),
    "both-digests": Digests(header=True, data=True),
}


@pytest.fixture(params=list(DIGESTS.values()), ids=list(DIGESTS))
def digests(request: pytest.FixtureRequest) -> Digests:
    assert isinstance(request.param, Digests)
    return request.param


@pytest.fixture
async def portal() -> AsyncIterator[Portal]:
    portal = Portal()
    await portal.listen()
    yield portal
    portal.volume.let_go()
    await portal.server.drain(0)


@pytest.fixture
async def host(portal: Portal, digests: Digests) -> RawInitiator:
    return await portal.host(digests)
