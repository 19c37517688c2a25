from irg_rl.report import tables


def test_a_share_is_printed_in_percent_with_interval_and_cases():
    cell = tables.share({"value": 0.4567, "low": 0.4, "high": 0.5, "n": 30})
    assert (cell.text.replace(tables.NARROW_SPACE, " "), cell.interval, cell.n) == ("45.7 %", "40.0–50.0", "30")


def test_a_difference_keeps_its_sign_and_says_to():
    cell = tables.points({"value": -0.02, "low": -0.1, "high": 0.06, "n": 5})
    assert (cell.text, cell.interval) == ("−2.0", "−10.0 to +6.0")


def test_nothing_measured_is_a_dash_and_never_zero():
    empty = {"value": None, "low": None, "high": None, "n": 0}
    assert tables.share(None).text == tables.share(empty).text == tables.number(empty).text == tables.MISSING


def test_margins_of_the_gate_are_points_and_the_rest_are_shares():
    line = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9, "at_least": True, "threshold": 0.15, "passed": True}
    gate = {"lines": [line | {"name": "first image right"}, line | {"name": "repair above a plain redraw"}]}
    share, margin = tables.gate_lines(gate)
    assert (share.asked, margin.asked, margin.cell.text) == ("at least 15 %", "at least 15 points", "+20.0")
