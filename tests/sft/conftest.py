"""Fixtures shared by the tests of SFT."""

import pytest

from tests.learner.world import TinyWorld, make_world


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> TinyWorld:
    return make_world(tmp_path_factory.mktemp("tokenizer"))
