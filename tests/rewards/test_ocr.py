"""Text in images: how a text is compared with what was read, and the real package where it is installed."""

import importlib.util

import numpy as np
import pytest

from irg_rl.trajectory import Prompt
from rewards.base import ScorerUnavailable
from rewards.ocr import PACKAGES, OcrScorer, least_distance, text_score, wanted_texts, written

HAS_PACKAGES = all(importlib.util.find_spec(package) for package in PACKAGES)
BLANK = np.full((64, 64, 3), 255, dtype=np.uint8)
needs_rapidocr = pytest.mark.skipif(not HAS_PACKAGES, reason="rapidocr is not installed: pip install 'irg-rl[ocr]'")


@pytest.mark.parametrize(("wanted", "found", "distance"), [
    ("abc", "abc", 0), ("abc", "xxabcxx", 0), ("abc", "xxaXcxx", 1), ("abc", "ac", 1), ("abc", "abxc", 1),
    ("abc", "", 3), ("abc", "xyz", 3), ("kitten", "the sitting cat", 2), ("", "abc", 0),
])  # fmt: skip
def test_the_distance_is_that_of_the_best_part(wanted, found, distance):
    assert least_distance(wanted, found) == distance


def test_the_distance_is_that_of_all_parts_tried_one_by_one():
    def levenshtein(a, b):
        row = list(range(len(b) + 1))
        for i, x in enumerate(a, 1):
            last, row[0] = row[0], i
            for j, y in enumerate(b, 1):
                last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
        return row[-1]

    rng = np.random.default_rng(0)
    for _ in range(50):
        wanted, found = ("".join(rng.choice(list("ab"), rng.integers(0, 6))) for _ in range(2))
        parts = {found[i:j] for i in range(len(found) + 1) for j in range(i, len(found) + 1)}
        assert least_distance(wanted, found) == min(levenshtein(wanted, part) for part in parts)


def test_case_and_white_space_do_not_count_and_missing_letters_do():
    assert text_score("Open Now", "we are\nOPENNOW today") == 1.0
    assert text_score("Open Now", "open") == pytest.approx(4 / 7)
    assert text_score("open", "") == 0.0


@pytest.mark.parametrize(("text", "metadata", "texts"), [
    ('a sign that says "Open" and “Closed”', {}, ["Open", "Closed"]),
    ('a sign that says "Open"', {"text": "Shut"}, ["Shut"]),
    ("a sign", {"text": ["A", "B", " ", 3]}, ["A", "B"]),
    ("a sign", {}, []),
    ('a sign " "', {}, []),
])  # fmt: skip
def test_the_text_that_is_asked_for_comes_from_the_metadata_or_from_quotes(text, metadata, texts):
    assert wanted_texts(Prompt("p", text, metadata), "text") == texts


@pytest.mark.skipif(HAS_PACKAGES, reason="rapidocr is installed")
def test_without_the_package_the_error_names_the_extra():
    with pytest.raises(ScorerUnavailable, match="irg-rl\\[ocr\\]"):
        OcrScorer()


@pytest.fixture(scope="module")
def scorer():
    return OcrScorer()


@needs_rapidocr
def test_a_written_text_is_read_and_scored(scorer, capfd):
    scorer.check()
    sign, plain = Prompt("a", 'a sign that says "OPEN NOW"'), Prompt("b", "a red circle")
    right, other, nothing, unasked = scorer.score(
        [written("OPEN NOW"), written("CLOSED"), BLANK, written("OPEN")], [sign, sign, sign, plain]
    )
    assert right == 1.0 and other < 0.6 and nothing == 0.0 and unasked is None
    assert "prompt 'b' asks for no text" in scorer.last_error
    assert "text detection result is empty" not in capfd.readouterr().err


@needs_rapidocr
@pytest.mark.parametrize(("text", "size", "width", "height"), [
    ("OPEN NOW", 36, 320, 96), ("OPEN NOW", 44, 320, 96), ("red 42", 36, 320, 96), ("red 42", 16, 256, 256),
    ("OPEN NOW", 80, 512, 512),
])  # fmt: skip
def test_small_and_large_letters_are_read_in_images_of_all_shapes(scorer, text, size, width, height):
    """The first three are misread if the package enlarges images as it does by default."""
    assert text_score(text, scorer.read(written(text, size, width, height))) == 1.0


@needs_rapidocr
def test_a_text_that_is_not_read_makes_the_scorer_unavailable(scorer):
    with pytest.raises(ScorerUnavailable, match="reads '' where 'open' is written"):
        scorer.require_reads("open", BLANK)
