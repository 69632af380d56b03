"""Records that still refer to an earlier key of another: what a client leaves that ends in the middle of a rename.

Up to there nothing is wrong: `$Alias` says what the earlier key means. A rename that goes on between two looks has a
client that will finish it. One that stands still is told, and finished in the parts that the client would have done;
should that be there after all, both do parts until none is left.
"""

from __future__ import annotations

from popoto_async.database import Database
from popoto_async.maintenance.report import Damage
from popoto_async.outcomes import failure
from popoto_async.planning.audit import plan_behind
from popoto_async.planning.relations import plan_rewrite
from popoto_async.records import ask
from popoto_async.schema import Schema

PAGE = 100

MOST = 10_000
"""Renames that one run looks at."""

FINISHING = 5000
"""Estimated cost of telling one call's worth of records their new key, in microseconds."""

REFUSED = (b"clash", b"corrupt")
"""What becomes of a rename that can't be finished: a claim is in the way, or something foreign is."""


class Renames:
    """The unfinished renames of a model's records, as they stood when they were looked at first."""

    def __init__(self, schema: Schema, database: Database, key: str) -> None:
        self._schema, self._database, self._key = schema, database, key
        self._seen: dict[bytes, list[bytes | int]] = {}
        self.unreadable: list[Damage] = []

    async def look(self) -> None:
        """Note what there is."""
        cursor = b"0"
        while True:
            cursor, flat = await self._database.execute("HSCAN", self._key, cursor, "COUNT", PAGE)
            names = flat[::2]
            for name, found in zip(names, await self._behind(names), strict=True):
                if found == []:
                    self.unreadable.append(Damage("foreign", self._key, tail=name.decode(errors="replace")))
                elif found and len(self._seen) < MOST:
                    self._seen[name] = found
            if cursor == b"0":
                return

    async def stalled(self) -> list[Damage]:
        """Those that stand as they stood."""
        found = []
        names = list(self._seen)
        for first in range(0, len(names), PAGE):
            page = names[first : first + PAGE]
            for name, now in zip(page, await self._behind(page), strict=True):
                if now and now == self._seen[name]:
                    key = now[1].decode(errors="replace") if isinstance(now[1], bytes) else ""
                    found.append(Damage("rename", name.decode(errors="replace"), self._key, other=key))
        return found

    async def finish(self, damage: Damage) -> bool:
        """Tell all that still refer to the earlier key the present one. False where something is in the way."""
        left = True
        while left:
            status, outcome, binding = await ask(
                "mend", self._schema, lambda bound: plan_rewrite(bound, damage.key), cost=FINISHING
            )
            if status in REFUSED:
                return False
            if status != b"ok":
                raise failure(self._schema, damage.key, {}, outcome, binding)
            left = bool(outcome[1])
        return True

    async def _behind(self, names: list[bytes]) -> list[list[bytes | int] | None]:
        if not names:
            return []
        status, outcome, binding = await ask(
            "check", self._schema, lambda bound: plan_behind(bound, names), cost=FINISHING
        )
        if status != b"ok":
            raise failure(self._schema, "", {}, outcome, binding)
        answers: list[list[bytes | int] | None] = outcome[1]
        return answers
