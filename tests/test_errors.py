"""Messages are one printable line of bounded length, whatever they quote; near matches."""

from __future__ import annotations

import pytest

from spos_quant.errors import ConfigError, DataError, near


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("plain words, größe 漢", "plain words, größe 漢"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x00\x7f", r"\x1b[31mred\x00\x7f"),
        ("\udcff\u202e\xa0", r"\udcff\u202e\xa0"),
    ],
)
def test_messages_are_one_printable_line(quoted, shown):
    assert str(ConfigError(f"{quoted}: wrong")) == f"{shown}: wrong"
    # An error may quote another, whose text must not be escaped twice.
    assert str(DataError(str(DataError(quoted)))) == shown


def test_long_messages_keep_their_beginning_and_their_end():
    text = str(ConfigError(f"begin-{'x' * 5000}-end: expected a word"))
    assert text.startswith("begin-xxx")
    assert text.endswith("xxx-end: expected a word")
    assert len(text) < 400
    text = str(ConfigError("begin " + "word " * 5000 + "end"))
    assert text.startswith("begin word word")
    assert text.endswith("word word end")
    assert len(text) < 1500


def test_near_matches():
    assert near("epoch", ["epochs", "lr"]) == "; did you mean 'epochs'? (known: epochs, lr)"
    assert near("zzz", ["epochs", "lr"]) == "; (known: epochs, lr)"
    assert near("x", []) == "; none is known"
    assert near("x" * 100_000, [f"name{i}" for i in range(20)]).endswith(", ... (20 in all))")
