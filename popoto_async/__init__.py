"""popoto_async: an async-first ORM for Redis and Valkey."""

from popoto_async.bulk import Summary
from popoto_async.database import Database, configure, connect, using
from popoto_async.errors import (
    AlreadyExists,
    ConfigurationError,
    ContentError,
    CorruptIndex,
    CorruptRecord,
    DatabaseError,
    DefinitionError,
    EmbeddingError,
    IndexNotBuilt,
    InvalidLookup,
    MissingPartition,
    ModelException,
    MultipleResults,
    NotAwaited,
    NotFound,
    NotLoaded,
    OutcomeUnknown,
    Overloaded,
    PopotoError,
    ProtectedRecord,
    QueryException,
    RecordGone,
    SkipSaveException,
    StaleRecord,
    TimedOut,
    Unavailable,
    UniqueViolation,
    UnknownField,
    ValidationError,
)
from popoto_async.events import DeadLetter, Event
from popoto_async.expressions import Attr, Q
from popoto_async.fields.auto_key_field import AutoKeyField
from popoto_async.fields.base import Field
from popoto_async.fields.dataframe_field import DataFrameField
from popoto_async.fields.datetime_field import DatetimeField
from popoto_async.fields.geo_field import GeoField
from popoto_async.fields.indexed_field import IndexedField, UniqueField
from popoto_async.fields.key_field import KeyField, UniqueKeyField
from popoto_async.fields.list_field import CappedList, ListField
from popoto_async.fields.relationship import CASCADE, DO_NOTHING, PROTECT, SET_NULL, OnDelete, Relationship
from popoto_async.fields.shortcuts import (
    BooleanField,
    BytesField,
    DateField,
    DecimalField,
    DictField,
    FloatField,
    IntField,
    SetField,
    StringField,
    TimeField,
    TupleField,
)
from popoto_async.fields.sorted_field import SortedField, SortedKeyField
from popoto_async.groups import Delivery, EventGroup
from popoto_async.model import Model
from popoto_async.pubsub import Message, Publisher, Subscriber
from popoto_async.queries.explaining import Explanation
from popoto_async.queries.paging import Page
from popoto_async.query import Query, UnindexedFilterWarning
from popoto_async.streams import EventStream, EventStreamMixin
from popoto_async.tracing import Stats, Trace, trace, unbatched
from popoto_async.transactions import transaction
from popoto_async.utils.mixins.timestampable import Timestampable

__version__ = "0.1.0"

__all__ = [
    "CASCADE",
    "DO_NOTHING",
    "PROTECT",
    "SET_NULL",
    "AlreadyExists",
    "Attr",
    "AutoKeyField",
    "BooleanField",
    "BytesField",
    "CappedList",
    "ConfigurationError",
    "ContentError",
    "CorruptIndex",
    "CorruptRecord",
    "DataFrameField",
    "Database",
    "DatabaseError",
    "DateField",
    "DatetimeField",
    "DeadLetter",
    "DecimalField",
    "DefinitionError",
    "Delivery",
    "DictField",
    "EmbeddingError",
    "Event",
    "EventGroup",
    "EventStream",
    "EventStreamMixin",
    "Explanation",
    "Field",
    "FloatField",
    "GeoField",
    "IndexNotBuilt",
    "IndexedField",
    "IntField",
    "InvalidLookup",
    "KeyField",
    "ListField",
    "Message",
    "MissingPartition",
    "Model",
    "ModelException",
    "MultipleResults",
    "NotAwaited",
    "NotFound",
    "NotLoaded",
    "OnDelete",
    "OutcomeUnknown",
    "Overloaded",
    "Page",
    "PopotoError",
    "ProtectedRecord",
    "Publisher",
    "Q",
    "Query",
    "QueryException",
    "RecordGone",
    "Relationship",
    "SetField",
    "SkipSaveException",
    "SortedField",
    "SortedKeyField",
    "StaleRecord",
    "Stats",
    "StringField",
    "Subscriber",
    "Summary",
    "TimeField",
    "TimedOut",
    "Timestampable",
    "Trace",
    "TupleField",
    "Unavailable",
    "UnindexedFilterWarning",
    "UniqueField",
    "UniqueKeyField",
    "UniqueViolation",
    "UnknownField",
    "ValidationError",
    "configure",
    "connect",
    "trace",
    "transaction",
    "unbatched",
    "using",
]
