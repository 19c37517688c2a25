"""Outcomes built straight from rows of verdicts."""

import pytest

from tests.evaluate.tables import build


@pytest.fixture
def table():
    """`table([[1, 0], [0, 1]])`"""
    return build
