"""Tables: DataFrameField, pandas ↔ Arrow IPC. Both packages are imported when a frame is first written or read."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Self, overload

from popoto_async.codec import Codec
from popoto_async.errors import CorruptRecord, shorten
from popoto_async.fields.base import Field
from popoto_async.types import UNSET

FRAME_LIMIT = 16 * 2**20
"""Bytes a stored frame may have where `max_length` is not given. The server is busy for about 1 ms per 4 MB."""

MOST = 512 * 2**20
"""Bytes that a value can have on the server (`proto-max-bulk-len`)."""

OBJECTS = frozenset({"string", "bytes", "boolean", "integer", "floating", "decimal", "date", "time", "empty"})
"""What a column of dtype object may hold, as pandas infers it: one type, and nulls."""

OWN = b"popoto_async"
"""Where the schema of a stream keeps the dtypes of the index, one for each level, as JSON."""

PACKAGES = ("pandas", "pyarrow")


class UnreadFrame:
    """The stored bytes of a frame that nobody asked for yet: what stands in an instance until its attribute is read."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def __repr__(self) -> str:
        return f"<DataFrame of {len(self.raw)} bytes>"


class DataFrameField(Field[Any]):
    """A pandas DataFrame, stored in the record as an Arrow IPC stream. `pip install popoto_async[dataframe]`.

    Values, dtypes, index (a MultiIndex too), categories, time zones, texts such as "007" and nulls come back as they
    were; a frame of which that can't be said is invalid. Not kept: the `freq` of an index, and which null a column of
    objects has. `max_length` bounds the stored bytes: 16 MiB unless given, None for what the server takes.

    A frame is read when its attribute is. From then on every save encodes it, since in-place changes count, in the
    event loop: about 1 ms per MB. A frame that was not read costs a save nothing. Filter: `__isnull`.
    """

    lookups: ClassVar[tuple[str, ...]] = ("isnull",)

    def _declared_type(self, annotated: type | str | None) -> type:
        if self.type is not None and not _is_frame_type(self.type):
            raise self.refused(f"its values are DataFrames, not {shorten(self.type)}", "leave type= out")
        return object

    def _codec(self) -> Codec:
        return Codec(object, to_arrow, UnreadFrame)

    def _bound(self) -> None:
        missing = [name for name in PACKAGES if find_spec(name) is None]
        if missing:
            raise self.refused(f"{' and '.join(missing)} is not installed", "pip install popoto_async[dataframe]")
        if self.max_length is UNSET:
            self.max_length = FRAME_LIMIT
        elif self.max_length is not None and (type(self.max_length) is not int or self.max_length < 1):
            raise self.refused(f"max_length must be a positive int or None, not {shorten(self.max_length)}")
        self.limit = MOST if self.max_length is None else min(self.max_length, MOST)
        if self.default is not None and not callable(self.default):
            raise self.refused("the default would be shared by all instances", "pass a callable: default=make_frame")
        if self.choices is not None:
            raise self.refused("frames can't be compared with choices", "pass a function in validators=")

    def connect(self, fields: Mapping[str, Field[Any]]) -> None:
        """A frame is in no index."""
        if type(self).indexes is not Field.indexes:
            raise self.refused("a DataFrame can't stand in an index", "index a field of its own beside it")
        super().connect(fields)

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: type) -> Any: ...

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        """The frame, read now where it was not."""
        if instance is None:
            return self
        state = instance.__dict__
        found = state.get(self.name, self)
        if isinstance(found, UnreadFrame):
            try:
                found = state[self.name] = from_arrow(found.raw)
            except Exception:  # whatever Arrow raises, the bytes are no frame
                state.setdefault("_corrupt", {})[self.name] = state.pop(self.name).raw
                found = self
        if found is not self:
            return found
        reading: Any = super()
        return reading.__get__(instance, owner)

    def __set__(self, instance: object, value: Any) -> None:
        """Python asks `__get__` before the instance's `__dict__` only where there is a `__set__`, too."""
        instance.__dict__[self.name] = value

    def problems(self, value: Any) -> list[str]:
        """What is wrong with a value."""
        if value is None or isinstance(value, UnreadFrame):
            return [] if value is not None or self.null else ["must not be null"]
        return self._examined(value)[1]

    def checked(self, value: Any) -> bytes | None:
        """The stored bytes, those that were read as they are; None where `problems` has something to say."""
        if isinstance(value, UnreadFrame):
            return value.raw
        raw, found = self._examined(value)
        return None if found else raw

    def _examined(self, value: Any) -> tuple[bytes, list[str]]:
        """The stored bytes of a value, and what is wrong with it."""
        pandas = sys.modules.get("pandas")
        if pandas is None or not isinstance(value, pandas.DataFrame):
            return b"", [f"must be a pandas.DataFrame, not {type(value).__name__} {shorten(value)}"]
        try:
            raw = to_arrow(value)
        except Exception as error:  # Arrow's errors have no common base that says whose fault it is
            return b"", [f"can't be stored: {error}"]
        if len(raw) > self.limit:
            return raw, [f"takes {len(raw):,} bytes, at most {self.limit:,} are allowed (max_length)"]
        return raw, self._verdicts(value)

    def plain(self, value: Any) -> Any:
        """The frame."""
        if not isinstance(value, UnreadFrame):
            return value
        try:
            return from_arrow(value.raw)
        except Exception as error:  # as above
            raise CorruptRecord(
                f"{self.model}.{self.name}: what is stored can't be read: {shorten(value.raw)}",
                model=self.model,
                field=self.name,
                value=value.raw,
                hint="load the records one by one to see which it is",
            ) from error


def _is_frame_type(kind: Any) -> bool:
    return getattr(kind, "__name__", "") == "DataFrame"


# Arrow ---------------------------------------------------------------------------------------------------------------


def to_arrow(frame: Any) -> bytes:
    """A frame as an Arrow IPC stream. Raises where Arrow can't hold it, or where it would come back as another."""
    _require_plain_objects(frame)
    arrow, ipc = import_module("pyarrow"), import_module("pyarrow.ipc")
    kinds = json.dumps([str(level.dtype) for level in _levels(frame.index)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", UserWarning)  # Arrow warns so of what it is about to change
        table = arrow.Table.from_pandas(_with_nullable_levels(frame)).combine_chunks()
    table = table.replace_schema_metadata({**table.schema.metadata, OWN: kinds.encode()})
    _require_shape(frame, table.slice(0, 0))
    # Of a table without rows nothing would be written, its categories neither.
    parts = [column.chunk(0) if column.num_chunks else arrow.array([], column.type) for column in table.columns]
    batches = table.to_batches() or [arrow.RecordBatch.from_arrays(parts, schema=table.schema)]
    sink = arrow.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
    raw: bytes = sink.getvalue().to_pybytes()
    return raw


def from_arrow(raw: bytes) -> Any:
    """The frame of a stream that `to_arrow` made."""
    with import_module("pyarrow.ipc").open_stream(raw) as stream:
        return _frame_of(stream.read_all())


def _levels(index: Any) -> list[Any]:
    return list(index.levels) if index.nlevels > 1 else [index]


def _nullable(kind: str) -> str:
    """The pandas type with a null of its own: UInt8 for uint8."""
    return "boolean" if kind == "bool" else kind.replace("uint", "UInt").replace("int", "Int")


def _with_nullable_levels(frame: Any) -> Any:
    """The frame, the whole numbers and bools of a MultiIndex with nulls as types that have a null of their own."""
    index = frame.index
    names = {
        number: _nullable(str(level.dtype))
        for number, level in enumerate(_levels(index))
        if index.nlevels > 1 and level.dtype.kind in "iub" and (index.codes[number] < 0).any()
    }
    if not names:
        return frame
    levels = [index.levels[number].astype(name) for number, name in names.items()]
    return frame.set_axis(index.set_levels(levels, level=list(names)), axis=0)


def _require_plain_objects(frame: Any) -> None:
    """Raise for objects that Arrow would take for something like them: dicts for one struct, sets for arrays."""
    infer = import_module("pandas.api.types").infer_dtype
    columns = ((name, frame.iloc[:, number]) for number, name in enumerate(frame.columns))
    for name, values in [*columns, *zip(frame.index.names, _levels(frame.index), strict=True)]:
        if str(values.dtype) == "object" and (kind := infer(values, skipna=True)) not in OBJECTS:
            raise ValueError(f"{name!r} holds {kind} objects, which would not come back as they are")


def _require_shape(frame: Any, table: Any) -> None:
    """Raise unless a table, of no rows, has what the frame has besides its values."""
    sample, index = _frame_of(table), frame.index
    told = table.schema.pandas_metadata["index_columns"]
    if told and isinstance(told[0], dict):  # a range, which only fits a table of its length
        names, kinds = [told[0]["name"]], [str(index.dtype)]
    else:
        names, kinds = list(sample.index.names), [str(level.dtype) for level in _levels(sample.index)]
    for what, mine, theirs in (
        ("columns", list(frame.columns), list(sample.columns)),
        ("names of the columns", list(frame.columns.names), list(sample.columns.names)),
        ("types of the columns", list(frame.dtypes), list(sample.dtypes)),
        ("names of the index", list(index.names), names),
        ("types of the index", [str(level.dtype) for level in _levels(index)], kinds),
    ):
        if mine != theirs:
            raise ValueError(f"the {what} {shorten(mine)} would come back as {shorten(theirs)}")


def _frame_of(table: Any) -> Any:
    """A table as a frame; what was of dtype object is that again, where Arrow would take it for something narrower."""
    pandas = import_module("pandas")
    frame, told = table.to_pandas(), table.schema.pandas_metadata
    objects = {column["field_name"] for column in told["columns"] if column["numpy_type"] == "object"}
    indexes = [name for name in told["index_columns"] if isinstance(name, str)]
    for number, name in enumerate(name for name in table.column_names if name not in indexes):
        if name in objects and str(frame.dtypes.iloc[number]) != "object":
            frame.isetitem(number, pandas.Series(table.column(name).to_pylist(), index=frame.index, dtype=object))
    frame.index = _exact(frame.index, table, indexes)
    frame.index = _retyped(frame.index, json.loads(table.schema.metadata[OWN]))
    labels = told["column_indexes"]
    if len(labels) == 1 and labels[0] and labels[0]["numpy_type"] == "object" and str(frame.columns.dtype) != "object":
        frame.columns = frame.columns.astype(object)
    return frame


def _exact(index: Any, table: Any, names: list[str]) -> Any:
    """An index with its whole numbers as they are stored, where beside nulls they have become floats."""
    pandas, types = import_module("pandas"), import_module("pyarrow.types")
    columns = [table.column(name) for name in names]
    levels = {
        number: pandas.array(column.to_pylist(), dtype=_nullable(str(column.type)))
        for number, column in enumerate(columns)
        if types.is_integer(column.type) and column.null_count
    }
    if not levels:
        return index
    arrays = [levels.get(number, index.get_level_values(number)) for number in range(index.nlevels)]
    if index.nlevels == 1:
        return pandas.Index(arrays[0], name=index.name)
    return pandas.MultiIndex.from_arrays(arrays, names=index.names)


def _retyped(index: Any, kinds: list[str]) -> Any:
    wrong = [number for number, level in enumerate(_levels(index)) if str(level.dtype) != kinds[number]]
    if wrong and index.nlevels == 1:
        return index.astype(kinds[0])
    if wrong:
        return index.set_levels([index.levels[number].astype(kinds[number]) for number in wrong], level=wrong)
    return index
