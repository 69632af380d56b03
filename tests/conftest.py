"""What every test module can ask for."""

from __future__ import annotations

import pytest

from popoto_async import Model

pytest_plugins = ["tests.fix_servers", "tests.fix_databases", "tests.fix_processes", "tests.examples"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Each module of tests is a program of its own, which may call its models what it likes."""
    if isinstance(collector, pytest.Module):
        Model._classes.clear()
