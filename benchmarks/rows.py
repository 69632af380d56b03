"""The rows of the benchmark as data: what is done, how often, and what is promised for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.dataset import Dataset

OURS = "ours"
BOUND = "bound"
PEERS = ("floor", BOUND, "popoto", "redis-om")


@dataclass(frozen=True, slots=True)
class Target:
    """A promise about one figure of ours: absolute, or divided by the same figure of another contestant."""

    text: str
    figure: str
    at_most: float
    against: str | None = None


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a row is done: operations in a round, rounds, and the stored records it works on."""

    ops: int
    rounds: int
    dataset: Dataset
    slow_ops: int = 0
    """Operations in a round of popoto, where the full number would take minutes; 0: the same."""
    budget: float = 30.0
    """Seconds of measured time after which a contestant with three rounds does no more."""

    def ops_of(self, contestant: str) -> int:
        return self.slow_ops if self.slow_ops and contestant == "popoto" else self.ops


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. A row without sizes is announced and not measured yet."""

    name: str
    work: str
    unit: str
    action: str = ""
    full: Size | None = None
    short: Size | None = None
    targets: tuple[Target, ...] = field(default=())
    floor: str = ""
    bound: str = ""
    """What it takes at least, where that is measured."""

    def contestants(self, peers: Sequence[str]) -> tuple[str, ...]:
        """Ours and those of the peers that have something of their own to show in this row."""
        return (OURS, *(peer for peer in peers if peer != BOUND or self.bound))

    def size(self, short: bool) -> Size | None:
        return self.short if short else self.full


_WRITES = Dataset(1_000, 500)
_FEW_WRITES = Dataset(250, 125)
_MANY = Dataset(10_000, 5_000)
_STORED = Dataset(11_000, 10_000)
_FEW_STORED = Dataset(2_200, 2_000)
_LINKED = Dataset(1_000, 500, visits=2_000, bills=400)
_FEW_LINKED = Dataset(200, 100, visits=400, bills=200)

_ONE_TRIP = Target("1 round trip", "reads", 1.02)  # 2 % for a health check or a first registration

ROWS = (
    Row(
        "create",
        "await create alone",
        "create",
        "create_each",
        Size(300, 7, Dataset(300, 150)),
        Size(60, 3, Dataset(60, 30)),
        (_ONE_TRIP, Target("≤ 1.3 × floor", "seconds", 1.3, "floor")),
        "one awaited EVALSHA of a small script",
        "the floor's script without a client library",
    ),
    Row(
        "gather-create",
        "gather of 1,000 create",
        "create",
        "create_together",
        Size(1_000, 7, _WRITES),
        Size(250, 3, _FEW_WRITES),
        (
            Target("≥ 10 × popoto", "seconds", 1 / 10, "popoto"),
            Target("≥ 2 × the pipelines", "seconds", 1 / 2, "floor"),
            Target("longest stall ≤ 20 ms", "stall", 0.020),
            Target("≤ 4 sockets", "sockets", 4),
        ),
        "MULTI in explicit pipelines of 100 records",
        "a bare future each, scripts of 100 creates without a client library",
    ),
    Row(
        "create-many",
        "create_many 10,000",
        "create",
        "create_many",
        Size(10_000, 5, _MANY),
        Size(1_000, 3, _WRITES),
        (
            Target("≥ 10 × popoto", "seconds", 1 / 10, "popoto"),
            Target("flat memory: 3 × the records, ≤ 1.2 × the peak", "memory_growth", 1.2),
        ),
        "MULTI in explicit pipelines of 100 records",
    ),
    Row(
        "gather-load",
        "gather of 1,000 load",
        "load",
        "load_together",
        Size(1_000, 7, _STORED),
        Size(250, 3, _FEW_STORED),
        (Target("≥ 2 × the pipeline, decoding included", "seconds", 1 / 2, "floor"),),
        "one pipeline of HGETALL, decoded by hand",
        "a bare future each, scripts of 250 HMGET without a client library",
    ),
    Row(
        "range",
        "range → 100 rows",
        "query",
        "range",
        Size(60, 7, _STORED),
        Size(8, 3, _FEW_STORED),
        (_ONE_TRIP, Target("≥ 5 × popoto", "seconds", 1 / 5, "popoto")),
        "ZRANGEBYSCORE, then a pipeline of HGETALL",
        "one script without a client library",
    ),
    Row(
        "equality",
        "equality, limit 10 of 10,000",
        "query",
        "equality",
        Size(50, 7, _STORED, slow_ops=2),
        Size(20, 3, _FEW_STORED, slow_ops=2),
        (_ONE_TRIP, Target("≤ 2 ms", "seconds", 0.002)),
        "SSCAN, then a pipeline of HGETALL",
    ),
    Row(
        "count",
        "count with two indexes",
        "count",
        "count",
        Size(20, 7, _STORED),
        Size(10, 3, _FEW_STORED),
        (_ONE_TRIP, Target("server side: ≤ 1 KiB sent per count", "sent", 1024)),
        "a small script: ZRANGEBYSCORE, SMISMEMBER",
    ),
    Row(
        "intersect",
        "two indexes, the first 10 of 10,000 by rating",
        "query",
        "intersect",
        Size(50, 7, _STORED, slow_ops=10),
        Size(20, 3, _FEW_STORED, slow_ops=2),
        (_ONE_TRIP, Target("server: ≤ 5 ms", "server_cpu", 0.005)),
        "a small script: ZRANGEBYSCORE in pieces, SMISMEMBER; then a pipeline of HGETALL",
    ),
    Row(
        "prefix",
        "names with a prefix, the first 10 of 10,000",
        "query",
        "prefix",
        Size(50, 7, _STORED, slow_ops=3),
        Size(20, 3, _FEW_STORED, slow_ops=2),
        (_ONE_TRIP,),
        "ZRANGE BYLEX of a set of all names kept for it, then a pipeline of HGETALL",
    ),
    Row(
        "traversal",
        "a condition through a relation, limit 10 of 1,000",
        "query",
        "traversal",
        Size(50, 7, _LINKED),
        Size(20, 3, _FEW_LINKED),
        (_ONE_TRIP,),
        "a small script: SSCAN of the places, SMEMBERS of their visits; then a pipeline of HGETALL",
    ),
    Row(
        "prefetch",
        "100 records with two relations, one behind the other",
        "page",
        "prefetch",
        Size(20, 7, _LINKED, slow_ops=2),
        Size(8, 3, _FEW_LINKED, slow_ops=2),
        (Target("3 round trips", "trips", 3),),
        "three pipelines of HGETALL",
    ),
    Row(
        "update-by-query",
        "update 1,000 of 10,000 by a range, an index follows",
        "record",
        "update_by_query",
        Size(1_000, 5, _MANY, slow_ops=100),
        Size(250, 3, _WRITES, slow_ops=25),
        (Target("longest stall ≤ 20 ms", "stall", 0.020),),
        "ZRANGE BYSCORE, then a pipeline of scripts, 100 records each",
    ),
    Row(
        "delete-by-query",
        "delete 1,000 of 10,000 by a range",
        "record",
        "delete_by_query",
        Size(1_000, 5, _MANY, slow_ops=100),
        Size(250, 3, _WRITES, slow_ops=25),
        (Target("longest stall ≤ 20 ms", "stall", 0.020),),
        "ZRANGE BYSCORE, then a pipeline of scripts, 100 records each",
    ),
    Row(
        "expiry",
        "count() right after 1,000 records have expired",
        "expired record",
        "expiry",
        Size(1_000, 5, _WRITES),
        Size(250, 2, _FEW_WRITES),
        floor="one script that takes all due records out of four indexes and the list of deadlines, then SCARD",
    ),
    Row(
        "memory",
        "memory per record",
        "record",
        "memory",
        Size(20_000, 1, Dataset(20_000, 1_000)),
        Size(2_000, 1, Dataset(2_000, 100)),
        (Target("≤ 1.35 × floor", "bytes", 1.35, "floor"),),
        "bare hash, class set, sorted set, value sets, GEOADD",
    ),
    Row(
        "import",
        "import popoto_async",
        "import",
        "import",
        Size(1, 15, Dataset(1, 1)),
        Size(1, 5, Dataset(1, 1)),
        (Target("≤ 1.3 × import redis.asyncio", "seconds", 1.3, "floor"),),
        "import redis.asyncio",
    ),
    Row(
        "check-indexes",
        "check indexes of 10,000 records",
        "check",
        "check_indexes",
        Size(1, 5, Dataset(10_000, 5_000)),
        Size(1, 3, Dataset(1_000, 500)),
        (Target("≤ 0.7 s", "seconds", 0.7),),
    ),
    Row(
        "rebuild",
        "rebuild all indexes of 10,000 records, which are whole before",
        "rebuild",
        "rebuild",
        Size(1, 3, Dataset(10_000, 5_000)),
        Size(1, 2, Dataset(500, 250)),
        (Target("longest stall ≤ 20 ms", "stall", 0.020),),
    ),
    Row("top-by-decay", "top_by_decay(10) of 300,000", "query", targets=(Target("≤ 10 ms", "seconds", 0.010),)),
    Row(
        "keyword-search",
        "keyword_search, 10 of 50,000 conversation turns",
        "query",
        targets=(Target("≤ 1/8 of popoto at p50 and p99", "seconds", 1 / 8, "popoto"),),
    ),
    Row(
        "semantic-search",
        "semantic_search over 100,000 × 384",
        "query",
        targets=(Target("≤ 1.3 × floor, right after a write too", "seconds", 1.3, "floor"),),
    ),
)

ROW_NAMES = tuple(row.name for row in ROWS)
