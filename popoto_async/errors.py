"""The error tree. Catching `PopotoError` is enough.

PopotoError
├── ModelException                  a model, a value or a record
│   ├── DefinitionError             a class that can't be (also a ValueError)
│   ├── UnknownField                a name that is no field (also a TypeError and an AttributeError)
│   ├── ValidationError             values that don't fit; `.errors` is {field: [messages]} (also a ValueError)
│   ├── UniqueViolation             another record owns the value; `.owner` is its key
│   ├── AlreadyExists               the key is taken and if_exists="error"
│   ├── NotFound                    no record matches
│   ├── RecordGone                  a loaded record was deleted or has expired
│   ├── StaleRecord                 another save of a `versioned` record came first
│   ├── NotLoaded                   a value that was not loaded was read
│   ├── ProtectedRecord             others refer to it with on_delete=PROTECT; `.referrers` are keys of some
│   └── CorruptRecord               what is stored can't be read as this model
├── QueryException                  a query (its children are also ValueErrors)
│   ├── InvalidLookup               no such field or lookup
│   ├── MissingPartition            a partitioned index without its partition
│   ├── MultipleResults             get() found more than one
│   └── IndexNotBuilt               an index that does not hold every record yet
├── DatabaseError                   the server, or the way to it
│   ├── Unavailable                 no answer, and nothing was changed by this call
│   │   └── TimedOut                … within the time given (also a TimeoutError)
│   ├── OutcomeUnknown              the call left and its outcome can't be known any more
│   ├── Overloaded                  no place in the full queue within `queue_timeout`
│   ├── CorruptIndex                an index key holds something foreign; nothing was written
│   ├── ConfigurationError          an address, a name or a command that can't be (also a ValueError)
│   └── NotAwaited                  a result was used before it was awaited (also a TypeError)
├── ContentError                    a content store
└── EmbeddingError                  an embedding provider

`SkipSaveException` stands beside it: `compute_filter_score()` may raise it to decline a save.

Every error carries what is known of `model`, `field`, `key` and `value` as attributes (None otherwise), says in its
text what happened, and in a note (`__notes__`) what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

SHOWN = 80
"""Characters of a value that an error message shows."""

REMEDIES = {
    "OOM": "the server is at its maxmemory: raise it or delete something",
    "MISCONF": "the server can't save to its disk and takes no writes until it can: its log says why",
}
"""First word of a server's refusal → what to do about it."""


def shorten(value: object) -> str:
    """The repr of a value, cut to `SHOWN` characters with its full length told."""
    if isinstance(value, (str, bytes)) and len(value) > SHOWN:
        return f"{value[: SHOWN - 20]!r}… ({len(value)} long)"
    try:
        text = repr(value)
    except Exception:  # an int of 5,000 digits, an object of a user's
        return f"a {type(value).__name__} that can't be shown"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 20]}… ({len(text)} long)"


def nearest(name: object, known: Iterable[str]) -> str:
    """A hint that names the closest of the known names, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known are: {', '.join(known)}"


class PopotoError(Exception):
    """Anything this library raises."""

    step: int | None = None
    """The number of the step of a transaction that failed, from 1."""

    def __init__(
        self,
        message: str,
        *,
        model: str | None = None,
        field: str | None = None,
        key: str | None = None,
        value: Any = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.model = model
        self.field = field
        self.key = key
        self.value = value
        self.hint = hint
        if hint:
            self.add_note(hint)


class ModelException(PopotoError):
    """A model, a value or a record is not as it must be."""


class DefinitionError(ModelException, ValueError):
    """A model class or a field was declared in a way that can't work."""


class UnknownField(ModelException, AttributeError, TypeError):
    """A name that is no field of the model."""


class ValidationError(ModelException, ValueError):
    """Values that don't fit their fields; `errors` maps each field to its messages. Nothing was sent."""

    def __init__(self, message: str, *, errors: dict[str, list[str]] | None = None, **known: Any) -> None:
        super().__init__(message, **known)
        self.errors = errors or {}


class UniqueViolation(ModelException):
    """Another record owns the value; `owner` is its key. Nothing was written."""

    def __init__(self, message: str, *, owner: str | None = None, **known: Any) -> None:
        super().__init__(message, **known)
        self.owner = owner


class AlreadyExists(ModelException):
    """A record with this key exists and `if_exists="error"` was asked for. Nothing was written."""


class NotFound(ModelException):
    """No record matches."""


class RecordGone(ModelException):
    """The record was loaded or saved once and does not exist any more. Nothing was written."""


class StaleRecord(ModelException):
    """Another save of a versioned record came first. Nothing was written."""


class NotLoaded(ModelException, AttributeError):
    """A value was read that has not been loaded."""


class ProtectedRecord(ModelException):
    """Others refer to the record with on_delete=PROTECT; `referrers` are the keys of some. It was not deleted."""

    def __init__(self, message: str, *, referrers: Iterable[str] = (), **known: Any) -> None:
        super().__init__(message, **known)
        self.referrers = tuple(referrers)


class CorruptRecord(ModelException):
    """What is stored under the key can't be read as this model."""


class QueryException(PopotoError):
    """A query can't be answered as asked."""


class InvalidLookup(QueryException, ValueError):
    """An unknown field, an unknown lookup, or a value a lookup can't take."""


class MissingPartition(QueryException, ValueError):
    """A partitioned index was asked without the value of its partition."""


class MultipleResults(QueryException, ValueError):
    """`get()` found more than one record."""


class IndexNotBuilt(QueryException):
    """An index was declared after records were stored, or was not kept up since; queries over it would miss some."""


class DatabaseError(PopotoError):
    """The server, or the way to it."""


class Unavailable(DatabaseError):
    """No answer could be had; what was asked has not been done by this call."""


class TimedOut(Unavailable, TimeoutError):
    """No answer within the time given; what was asked has not been done by this call."""


class OutcomeUnknown(DatabaseError):
    """The call reached the server or may have; whether it was done can't be known."""


class Overloaded(DatabaseError):
    """There was no place in the dispatcher's full queue for `queue_timeout` seconds; nothing was sent."""


class CorruptIndex(DatabaseError):
    """A key that belongs to an index holds something foreign; nothing of the operation was kept."""


class ConfigurationError(DatabaseError, ValueError):
    """An address, a name or a command that can't be; nothing was sent."""


class NotAwaited(DatabaseError, TypeError, AttributeError):
    """A result was used before it was awaited."""


class ContentError(PopotoError):
    """A content store failed."""


class EmbeddingError(PopotoError):
    """An embedding provider failed; nothing was saved."""


class SkipSaveException(Exception):
    """Raised by `compute_filter_score()` to decline a save; `save()` then returns False."""
