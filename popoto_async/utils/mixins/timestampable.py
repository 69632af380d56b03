"""The mixin that keeps when a record was made and last saved."""

from __future__ import annotations

from popoto_async.fields.datetime_field import DatetimeField


class Timestampable:
    """Gives a model `created_at` and `updated_at`, both by the server's clock. Put it before or after `Model`."""

    created_at = DatetimeField(auto_now_add=True)
    updated_at = DatetimeField(auto_now=True)
