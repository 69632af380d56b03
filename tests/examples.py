"""How hypothesis looks for examples: the same ones in CI, new ones everywhere else, and never against the clock."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

STEPS = 25
"""Steps of a sequence of verbs."""

settings.register_profile(
    "tests",
    deadline=None,
    database=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("tests")


def examples(count: int) -> settings:
    """So many examples, or as many as POPOTO_EXAMPLES says."""
    return settings(max_examples=int(os.environ.get("POPOTO_EXAMPLES", count)))


def run_machine(machine: type[RuleBasedStateMachine], count: int, **attributes: Any) -> None:
    """So many sequences of a state machine that has these attributes."""
    prepared = type(machine.__name__, (machine,), attributes)
    run_state_machine_as_test(prepared, settings=settings(examples(count), stateful_step_count=STEPS))
