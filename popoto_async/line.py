"""A connection of its own for those who wait on the server: opened again, with growing pauses, when it breaks.

Waiting commands would hold up everybody else on a shared connection. Whoever owns a line uses it from one task at a
time, and drops it after any failure.
"""

from __future__ import annotations

import asyncio
import time

from popoto_async.database import Database, require_seconds
from popoto_async.errors import OutcomeUnknown, Unavailable
from popoto_async.wire import Wire

FIRST_PAUSE = 0.02
LONGEST_PAUSE = 1.0
"""Seconds between attempts to reach a server that is away."""


class Line:
    """One connection to a database, and the patience to look for it again.

    `patience` is the number of seconds for which a lost server is looked for before Unavailable is raised; None: for
    ever. The first connection is tried once.
    """

    def __init__(self, database: Database, patience: float | None) -> None:
        require_seconds("patience", patience)
        self.database = database
        self.opened = 0
        """Connections opened so far."""
        self._patience = patience
        self._wire: Wire | None = None
        self._lost_at: float | None = None
        self._pause = 0.0

    async def wire(self) -> Wire:
        """The connection, opened if there is none."""
        while self._wire is None:
            try:
                self.database.session()  # raises where the database was closed for good
                self._wire = await self.database.open_wire()
                self.opened += 1
            except Unavailable as error:
                if not self.opened:
                    raise
                await self.endure(error)
        return self._wire

    async def endure(self, error: Unavailable | OutcomeUnknown) -> None:
        """The server did not answer: pause before the next attempt, or raise when patience has run out."""
        now = time.monotonic()
        self._lost_at = self._lost_at or now
        if self.database.ended or (self._patience is not None and now - self._lost_at >= self._patience):
            raise error
        await self.drop()
        self._pause = min(2 * self._pause or FIRST_PAUSE, LONGEST_PAUSE)
        await asyncio.sleep(self._pause)

    def worked(self) -> None:
        """The server answered: patience begins anew."""
        self._lost_at, self._pause = None, 0.0

    async def drop(self) -> None:
        """Close the connection, if there is one."""
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()
