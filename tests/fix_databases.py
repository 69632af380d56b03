"""Fixtures: `db`, an open database on an empty server, for Valkey and for Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from popoto_async import Database, connect
from tests.servers import Server


@pytest.fixture
async def db(clean_server: Server) -> AsyncIterator[Database]:
    async with connect(clean_server.url) as database:
        yield database
