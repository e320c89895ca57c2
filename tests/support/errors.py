"""What errors have to be."""

from __future__ import annotations

from typing import Any

import pytest

from qmesh.errors import BadInput, QmeshError


def assert_refused(message: str, call: Any, *args: Any, **named: Any) -> BadInput:
    with pytest.raises(BadInput) as caught:
        call(*args, **named)
    assert message in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.hint.isprintable()
    return caught.value


def in_one_line(error: QmeshError) -> str:
    """Both texts of an error, which are one line each and came from no other error."""
    assert error.message.isprintable()
    assert error.hint.isprintable()
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    return f"{error.message} {error.hint}"
