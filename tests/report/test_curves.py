import base64

import numpy as np

from irg_rl.report import curves


def rows(stage: str, steps: int, **scalars):
    return [
        {"stage": stage, "step": s, "time": 0.0, **{k: f(s) for k, f in scalars.items()}} for s in range(1, steps + 1)
    ]


def svg(picture: curves.ReportFigure) -> str:
    return base64.b64decode(picture.address.removeprefix("data:image/svg+xml;base64,")).decode()


def test_only_what_was_logged_is_drawn_and_the_rest_is_listed():
    metrics = rows("sft1", 5, ce=lambda s: 2 / s, lr=lambda s: 1e-3) + rows("clip", 3, ce=lambda s: 1.0)
    assert [picture.title for picture in curves.draw_curves(metrics)] == ["Text loss in SFT"]
    assert curves.not_drawn(metrics) == ["clip/ce", "sft1/lr"]
    assert curves.draw_curves([]) == []


def test_axes_carry_units_and_the_caption_says_the_change_in_numbers():
    (picture,) = curves.draw_curves(rows("sft1", 20, ce=lambda s: 4.0 if s <= 2 else 1.0))
    assert picture.caption == "4 → 1"
    assert "cross-entropy (nats per token)" in svg(picture) and "optimizer step" in svg(picture)


def test_turns_are_counted_from_one_and_the_cases_are_stated():
    scalars = {"accuracy/turn0": lambda s: 0.4, "accuracy/turn2": lambda s: 0.6, "accuracy/n": lambda s: 128}
    (picture,) = curves.draw_curves(rows("rl", 3, **scalars))
    assert picture.caption == "turn 1: 0.4 → 0.4; turn 3: 0.6 → 0.6 (n=128 per point)"


def test_a_value_that_is_missing_is_a_gap_and_not_a_crash():
    metrics = rows("rl", 4, stopped=lambda s: None if s == 2 else 0.1 * s)
    (picture,) = curves.draw_curves(metrics)
    assert picture.caption == "0.1 → 0.4"
    assert curves.draw_curves(rows("rl", 3, stopped=lambda s: None)) == []


def test_names_with_formula_signs_do_not_become_formulas():
    (picture,) = curves.draw_curves(
        rows("rl", 3, **{"reward/a$x_{1$/turn0": lambda s: 0.1 * s, "reward/b/turn0": lambda s: s})
    )
    assert "a$x_{1$" in svg(picture)


def test_smoothing_keeps_constants_means_and_length():
    y = np.sin(np.linspace(0, 20, 200)) + 3
    assert np.allclose(curves.smooth(np.full(100, 2.5)), 2.5)
    assert curves.smooth(y).shape == y.shape and abs(curves.smooth(y).mean() - y.mean()) < 0.02
    np.testing.assert_allclose(curves.smooth(y)[100], y[95:106].mean())


def measure(value, n=10):
    return {
        "value": value,
        "n": n,
        "low": None if value is None else value - 0.1,
        "high": None if value is None else value + 0.1,
    }


def test_an_evaluation_without_anything_to_repair_is_still_drawn():
    arm = {"turns": 2, "n": 10, "accuracy": [measure(1.0), measure(1.0)], "repair": [None, measure(None, 0)],
           "damage": [None, measure(0.0)]}  # fmt: skip
    evaluation = {"name": "sft", "arms": {"real": arm, "redraw": arm}}
    assert "sft 0 and 10" in curves.draw_repair([evaluation]).caption
    assert "sft (n=10)" in svg(curves.draw_turns([evaluation]))
    uncontrolled = {"name": "more", "arms": {"real": arm}}
    assert "redraw" in svg(curves.draw_turns([evaluation, uncontrolled])), "the legend names every arm that is shown"
    assert curves.draw_turns([]) is None and curves.draw_repair([]) is None
