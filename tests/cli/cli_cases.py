"""What the tests of the command line share."""

from __future__ import annotations

SPACE = (
    "name: x\nbackbone: digits-resnet\ninput: [1, 8, 8]\nclasses: 10\ndata: digits\naxes: {bits: [[2, 2], [4, 4]]}\n"
)


def refused(result, *messages: str) -> str:
    """Asserts that a command was refused as the user's mistake in a few lines that say `messages`; returns them."""
    status, out, err = result
    assert status == 2, err
    assert out == ""
    assert "Traceback" not in err
    for message in messages:
        assert message in err
    assert len(err.strip().splitlines()) <= 4
    assert len(err) < 2_000
    assert not set(err) - {"\n"} & {chr(c) for c in range(32)}
    return err


def contents(folder) -> list[str]:
    """Everything below a folder, by relative path."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
