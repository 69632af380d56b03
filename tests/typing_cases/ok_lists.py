"""Capped lists, to checkers."""

from typing import Any, assert_type

from popoto_async import CappedList, DataFrameField, Field, KeyField, ListField, Model


class Log(Model):
    name: str = KeyField()
    texts = ListField[str](max_length=3)
    anything = ListField(max_length=3)
    noted: CappedList[int] = ListField(max_length=3)
    plain = ListField[str]()
    bare: list[str] = Field(max_length=3)
    frame = DataFrameField()


async def pushing(log: Log) -> None:
    assert_type(log.texts, CappedList[str])
    assert_type(await log.texts.push("x"), int)
    assert_type(log.texts[0], str)
    assert_type(await log.noted.push(1), int)
    assert_type(await log.anything.push({"any": 1}), int)
    assert_type(log.plain, list[str])
    assert_type(log.bare, list[str])
    assert_type(log.frame, Any)
    log.texts = ["assigned"]
    log.frame = None
