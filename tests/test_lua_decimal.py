"""The exact arithmetic of lib/decimal.lua, against Python's decimal on both servers."""

from __future__ import annotations

from decimal import Context, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popoto_async.codec import codec_for, float_text
from tests.examples import examples
from tests.lua_servers import call_decimal

EXACT = Context(prec=5000, Emin=-100_000, Emax=100_000)
DECIMAL_CODEC = codec_for(Decimal)

numbers = st.one_of(
    st.integers().map(str),
    st.integers(-(10**60), 10**60).map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.decimals(-100, 100, places=3).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["0", "-0", "0.0", "-0.00", "1E+3", "1000", "-0.10", "-0.1", "1e-07", str(2**60), str(2**60 + 1)]),
)
pairs = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=40)
thorough = examples(60)


def sign(x: Decimal, y: Decimal) -> int:
    return (x > y) - (x < y)


@thorough
@given(pairs)
def test_compare(server, pairs):
    found = call_decimal(server.client, "decimal.compare(ARGV[i], ARGV[i + 1])", pairs)
    assert found == [sign(Decimal(a), Decimal(b)) for a, b in pairs]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("inf", "-inf", 1),
        ("inf", "inf", 0),
        ("inf", "1e400", 1),
        ("-inf", "-1E+5000", -1),
        ("1E+5000", "1E+4999", 1),
        ("1E-5000", "0", 1),
        ("-1E-5000", "1E-5000", -1),
        ("1152921504606846976", "1152921504606846977", -1),
        ("0.1", "0.1000000000000000055511151231257827", -1),
        ("1E+3", "1000.0", 0),
        ("-0.0", "0", 0),
    ],
)
def test_compare_at_the_edges(server, a, b, expected):
    found = call_decimal(server.client, "decimal.compare(ARGV[i], ARGV[i + 1])", [(a, b), (b, a)])
    assert found == [expected, -expected]


@thorough
@given(pairs)
def test_sums_are_exact_and_keep_the_finer_scale(server, pairs):
    found = call_decimal(server.client, "decimal.add(ARGV[i], ARGV[i + 1])", pairs)
    for (a, b), text in zip(pairs, found, strict=True):
        if any(abs(exponent_in(operand)) > 400 for operand in (a, b)):
            assert text is None
            continue
        total = EXACT.add(Decimal(a), Decimal(b))
        assert Decimal(text.decode()) == total
        assert places(text.decode()) == max(-total.as_tuple().exponent, 0)
        assert not text.startswith(b"-0") or total < 0


def exponent_in(text: str) -> int:
    return int(text.lower().partition("e")[2] or 0)


def places(text: str) -> int:
    return len(text.partition(".")[2])


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("1.10", "1", b"2.10"),
        ("-1", "1", b"0"),
        ("-0", "-0", b"0"),
        ("-1.10", "1.1", b"0.00"),
        ("0.5", "-1", b"-0.5"),
        ("9" * 100, "1", b"1" + b"0" * 100),
        ("1E+3", "1.5", b"1001.5"),
        ("12.5e-3", "0", b"0.0125"),
        ("1E+401", "1", None),
        ("1", "1E-401", None),
        ("inf", "1", None),
        ("-inf", "inf", None),
    ],
)
def test_sums_at_the_edges(server, a, b, expected):
    assert call_decimal(server.client, "decimal.add(ARGV[i], ARGV[i + 1])", [(a, b)]) == [expected]


@thorough
@given(st.lists(numbers, min_size=1, max_size=40))
def test_tokens_are_those_of_the_codec(server, numbers):
    found = call_decimal(server.client, "decimal.token(ARGV[i])", [(text, "") for text in numbers])
    assert DECIMAL_CODEC is not None
    assert DECIMAL_CODEC.token is not None
    assert [text.decode() for text in found] == [DECIMAL_CODEC.token(Decimal(text)) for text in numbers]


@pytest.mark.parametrize("text", ["inf", "-inf"])
def test_the_token_of_an_infinity_is_itself(server, text):
    assert call_decimal(server.client, "decimal.token(ARGV[i])", [(text, "")]) == [text.encode()]


@thorough
@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=40))
def test_float_texts_are_those_of_the_codec(server, floats):
    found = call_decimal(server.client, "float_text(tonumber(ARGV[i]))", [(repr(value), "") for value in floats])
    assert [text.decode() for text in found] == [float_text(value) for value in floats]
