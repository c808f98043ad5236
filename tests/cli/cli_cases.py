"""Helpers of the command line tests."""

from __future__ import annotations

SPACE = (
    "name: x\nbackbone: digits-resnet\ninput: [1, 8, 8]\nclasses: 10\ndata: digits\naxes: {bits: [[2, 2], [4, 4]]}\n"
)


def refused(result, *messages: str) -> str:
    """Asserts that a command failed with a short user error that contains `messages`; returns stderr."""
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
    """The relative paths of everything below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
