"""Looking after what is stored: whether the indexes say what the records say, and how much there is.

`check` only reads; `repair` takes away what it finds; `rebuild` brings the indexes of a class to what its declaration
says now. All three work while other clients go on reading and writing: each record is compared and mended in one atomic
step, work is cut into small calls, and memory does not grow with the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from popoto_async.errors import ValidationError, shorten
from popoto_async.maintenance.report import KINDS, Damage, IndexStats, ModelReport, ModelStats, Report
from popoto_async.maintenance.survey import Progress, Survey
from popoto_async.maintenance.weighing import weigh
from popoto_async.pending import verb

__all__ = [
    "KINDS",
    "Damage",
    "IndexStats",
    "ModelReport",
    "ModelStats",
    "Report",
    "check",
    "rebuild",
    "repair",
    "stats",
]


@verb
async def check(*models: type[Any], progress: Progress | None = None) -> Report:
    """Compare every index, claim, manifest, deadline and class entry of these models with what their records imply.

    Changes nothing. `progress` is called with the records looked at and those expected, of each model in turn.
    """
    return await _run(models, dry=True, progress=progress)


@verb
async def repair(*models: type[Any], dry_run: bool = False, progress: Progress | None = None) -> Report:
    """Bring everything that `check` finds in order; what can't be told from the data is reported and left alone.

    No record is removed, and of stored values only references are changed: those to a record whose rename was cut off,
    which follow it. With `dry_run` nothing is.
    """
    return await _run(models, dry=dry_run, progress=progress)


@verb
async def rebuild(
    *models: type[Any],
    renamed: Mapping[str, str] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Bring the indexes of these models to what their classes declare: each record stands where its values put it.

    `renamed` maps old names of fields to the new ones: values that are stored under the old name move. Interrupted, it
    is begun again by running it again. The report counts what was not as it is to be.
    """
    if renamed is not None and not isinstance(renamed, Mapping):
        raise ValidationError(f"renamed is new names of fields by old ones, not {shorten(renamed)}", value=renamed)
    for schema in (model._meta for model in _checked(models)):
        for old, new in (renamed or {}).items():
            if new not in schema.fields or old in schema.fields or old in ("$", "$v"):
                raise ValidationError(
                    f"{schema.model}: a value moves from a name that is no field any more to a field,"
                    f" not from {shorten(old)} to {shorten(new)}",
                    model=schema.model,
                    field=new,
                )
    return await _run(models, dry=dry_run, anew=True, renamed=renamed or {}, progress=progress)


@verb
async def stats(*models: type[Any]) -> tuple[ModelStats, ...]:
    """Records, memory and index sizes of these models. Reads only."""
    return tuple([await weigh(model) for model in _checked(models)])


async def _run(
    models: tuple[type[Any], ...],
    *,
    dry: bool,
    anew: bool = False,
    renamed: Mapping[str, str] | None = None,
    progress: Progress | None,
) -> Report:
    if progress is not None and not callable(progress):
        raise ValidationError(f"progress is called, which {shorten(progress)} can't be", value=progress)
    found = []
    for model in _checked(models):
        survey = Survey(model, dry=dry, anew=anew, renamed=renamed or {}, progress=progress)
        found.append(await survey.run())
    return Report(tuple(found))


def _checked(models: tuple[Any, ...]) -> tuple[type[Any], ...]:
    for model in models:
        if not isinstance(model, type) or not hasattr(model, "_meta"):
            raise ValidationError(f"maintenance is of model classes, not of {shorten(model)}", value=model)
    return models
