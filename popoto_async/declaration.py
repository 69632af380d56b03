"""From a class body to a schema: collecting fields along the MRO, reading `Meta`, refusing what can't work. Pure."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

if sys.version_info >= (3, 14):
    from annotationlib import Format, get_annotations

from popoto_async.errors import DefinitionError, UnknownField, nearest, shorten
from popoto_async.expressions import Attr, Order, parse_order
from popoto_async.fields.auto_key_field import AutoKeyField
from popoto_async.fields.base import Field
from popoto_async.fields.composite import composite_indexes
from popoto_async.schema import Events, Options, Schema, build_schema

RESERVED = frozenset(
    "defaults if_exists limit offset order_by query values "
    "delete errors expire_at expire_in fetch increment is_saved is_valid persist refresh save to_dict touch db_key "
    "create create_many delete_many exists get_or_create load ref save_many update_or_create "
    "after_delete after_save before_delete before_save".split()
)
"""Names that no field may have: options of calls, and the public attributes of `Model`. Closed: later verbs go to
`Model.query`, so that no release takes a name that people use."""

MOST_FIELDS = 7000
"""Fields of one model. A Lua script can hand about 8,000 arguments to one command."""

META = frozenset(
    {"order_by", "ttl", "abstract", "name", "database", "unique_together", "indexes", "versioned", "immutable_key"}
)
STREAM_VALUES = ("changed", "all", "none")
"""What an entry of a model's stream can hold of the record."""

MOST_STREAMED = 3000
"""Fields that one entry of a stream can tell of."""

_OWN = frozenset({"abstract", "name"})
"""Options of `Meta` that a subclass does not inherit."""


def unknown_field(model: str, name: str, known: Iterable[str]) -> UnknownField:
    """The error of a name that is no field."""
    return UnknownField(f"{model} has no field {name!r}", model=model, field=name, hint=nearest(name, known))


def require_field(schema: Schema, name: Any) -> None:
    """Raise UnknownField unless this is the name of a field."""
    if not isinstance(name, str) or name not in schema.fields:  # what is no text may not even be hashable
        raise unknown_field(schema.model, name, schema.fields)


def declare(cls: type) -> Schema:
    """The schema of a class: its own fields, those it inherits, and its options."""
    model = cls.__name__
    options = _meta(cls)
    fields, own = _collect(cls)
    for name, field in fields.items():
        for parameter in field.parameters:
            if f"{name}_{parameter}" in fields:
                raise DefinitionError(
                    f"{model}: field {name}_{parameter} has the name of a lookup of {name}", model=model, field=name
                )
    if len(fields) > MOST_FIELDS:
        raise DefinitionError(
            f"{model} has {len(fields)} fields, and {MOST_FIELDS} is the most", model=model, hint="use a DictField"
        )
    if not any(field.is_key for field in fields.values()):
        fields = {"_auto_key": AutoKeyField().bind(model, "_auto_key"), **fields}
    for name, value in {**fields, "_declared": own}.items():
        setattr(cls, name, value)
    if options.events is not None and len(fields) > MOST_STREAMED:
        raise DefinitionError(f"{model}: a stream takes records of at most {MOST_STREAMED} fields", model=model)
    raw = _meta_values(cls)
    composites = composite_indexes(model, raw.get("indexes"), raw.get("unique_together"), fields)
    for order in options.order_by:
        if order.field not in fields:
            raise DefinitionError(f"{model}: Meta.order_by names no field: {order.field}", model=model)
    return build_schema(model, options, fields, composites)


Declared = dict[str, Field[Any] | None]
"""What one class says of fields: declares them, or removes them."""


def _collect(cls: type) -> tuple[dict[str, Field[Any]], Declared]:
    """The fields of a class along its MRO, bound to it; and what the class itself says, for its subclasses."""
    model = cls.__name__
    fields: dict[str, Field[Any]] = {}
    own: Declared = {}
    for base in reversed(cls.__mro__):
        # An earlier model class also has, as attributes, what it inherited: that must not count as its own.
        declared = vars(base).get("_declared")
        if declared is None:
            declared = vars(base).copy()
        for name, value in declared.items():
            if isinstance(value, Field):
                _check_name(model, name)
                fields[name] = value.bind(model, name, *_annotated(base, name))
            elif name in fields:
                if value is not None:
                    raise DefinitionError(
                        f"{model}: {name} of {base.__name__} hides the field {name} with {shorten(value)}",
                        model=model,
                        field=name,
                        hint=f"declare a field, or remove it with {name} = None",
                    )
                del fields[name]
        own = {name: value for name, value in declared.items() if value is None or isinstance(value, Field)}
    return fields, own


def _check_name(model: str, name: str) -> None:
    if name.startswith("_"):
        problem, hint = "begins with '_', as what is not stored does", "leave the underscore out"
    elif name in RESERVED:
        problem, hint = "is reserved", "the reserved names are listed in docs/reserved-names.md"
    elif "__" in name:
        problem, hint = "contains '__', which separates a field from a lookup", "use one underscore"
    else:
        return
    raise DefinitionError(f"{model}: the field name {name!r} {problem}", model=model, field=name, hint=hint)


# Annotations ---------------------------------------------------------------------------------------------------------


Annotated = tuple[type | str | None, bool]
"""The type that an annotation names for a field's values, its text if it names none; and whether None is a value."""


def _annotated(base: type, name: str) -> Annotated:
    annotation = _annotations(base).get(name)
    if annotation is None:
        return None, False
    if isinstance(annotation, Field):  # `date: date = DateField()` names the field itself
        return name, False
    text = annotation if isinstance(annotation, str) else repr(annotation)
    holder = types.SimpleNamespace(__annotations__={name: annotation})
    known = vars(sys.modules.get(base.__module__, types))
    inner = {name: value for name, value in vars(base).items() if not isinstance(value, Field)}
    try:
        annotation = typing.get_type_hints(holder, known, inner)[name]
    except Exception:  # names of an enclosing function, or of TYPE_CHECKING alone, can't be seen from here
        return text, "None" in text
    origin, arguments = get_origin(annotation), get_args(annotation)
    kind = origin or annotation
    if not isinstance(kind, type) or not issubclass(kind, Attr):
        return _value_type(annotation)
    if not arguments:
        return None, False
    found, optional = _value_type(arguments[0])
    # What stands in the brackets of a kind need not be the type of its values: `ListField[str]`.
    foreign = issubclass(kind, Field) and isinstance(found, type) and not kind.admits(found)
    return None if foreign else found, optional


def _annotations(base: type) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        return get_annotations(base, format=Format.FORWARDREF)
    return inspect.get_annotations(base)


def _value_type(annotation: Any) -> Annotated:
    while (inner := getattr(annotation, "__supertype__", None) or getattr(annotation, "__value__", None)) is not None:
        annotation = inner  # a NewType, or a `type X = …`
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        rest = [argument for argument in arguments if argument is not type(None)]
        return (_value_type(rest[0])[0] if len(rest) == 1 else repr(annotation)), len(rest) < len(arguments)
    if origin is Literal:
        return type(arguments[0]), False
    found = origin or annotation
    return (found, False) if isinstance(found, type) and found not in {object, Any} else (None, False)


# Meta ----------------------------------------------------------------------------------------------------------------


def _meta_values(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        meta = vars(base).get("Meta")
        if meta is None:
            continue
        if not isinstance(meta, type):
            raise DefinitionError(f"{base.__name__}: Meta must be a class, not {shorten(meta)}", model=cls.__name__)
        if base is not cls:
            found = {name: value for name, value in found.items() if name not in _OWN}
        for level in reversed(meta.__mro__):
            for name, value in vars(level).items():
                if not name.startswith("_") and ((base is cls and level is meta) or name not in _OWN):
                    found[name] = value
    return found


def _meta(cls: type) -> Options:
    model = cls.__name__
    values = _meta_values(cls)
    for name in values.keys() - META:
        raise DefinitionError(f"{model}: Meta has no option {name!r}", model=model, hint=nearest(name, META))
    ttl = values.get("ttl")
    if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not 0 < ttl < 2**40):
        raise DefinitionError(
            f"{model}: Meta.ttl must be a positive number of seconds, not {shorten(ttl)}", model=model
        )
    for option in ("abstract", "versioned", "immutable_key"):
        if not isinstance(values.get(option, False), bool):
            raise DefinitionError(f"{model}: Meta.{option} must be True or False", model=model)
    for option in ("name", "database"):
        value = values.get(option)
        if value is not None and (not isinstance(value, str) or not value or value.startswith("$")):
            raise DefinitionError(
                f"{model}: Meta.{option} must be a non-empty text that does not begin with $", model=model
            )
    return Options(
        name=values.get("name") or model,
        order_by=_orders(model, values.get("order_by", ())),
        ttl=ttl,
        abstract=values.get("abstract", False),
        database=values.get("database"),
        versioned=values.get("versioned", False),
        immutable_key=values.get("immutable_key", False),
        events=_events(cls),
    )


def _events(cls: Any) -> Events | None:
    """What `EventStreamMixin` and its options say."""
    limit, values = getattr(cls, "_stream_max_length", None), getattr(cls, "_stream_values", None)
    if limit is None and values is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit < 2**53:
        raise DefinitionError(
            f"{cls.__name__}: _stream_max_length must be a positive number of entries, not {shorten(limit)}",
            model=cls.__name__,
        )
    if values not in STREAM_VALUES:
        raise DefinitionError(
            f"{cls.__name__}: _stream_values is {' or '.join(map(repr, STREAM_VALUES))}, not {shorten(values)}",
            model=cls.__name__,
        )
    return Events(limit, values)


def _orders(model: str, declared: Any) -> tuple[Order, ...]:
    names = (declared,) if isinstance(declared, str) else declared
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
        raise DefinitionError(f"{model}: Meta.order_by takes field names, not {shorten(declared)}", model=model)
    return tuple(parse_order(name) for name in names)
