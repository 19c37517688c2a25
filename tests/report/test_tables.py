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


def evaluation(**measures) -> dict:
    """An evaluation of two turns with one arm, which has these measures."""
    none = {key: [] for key in ("accuracy", "score", "repair", "damage", "stop_rate", "stop_when_right",
                                "stop_when_wrong", "reflection_accuracy")}  # fmt: skip
    return {"name": "rl", "settings": {"preference": "mllm"}, "differences": {},
            "arms": {"real": {"turns": 2, "rewards": {}} | none | measures}}  # fmt: skip


def measure(value: float, n: int = 300) -> dict:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": n}


def test_a_preference_is_told_as_the_paper_tells_it_with_ties_and_pairs_without_an_answer():
    told = tables.preference(evaluation(
        preferred=[None, measure(0.633, 290)], ties=[None, measure(0.1, 290)], unanswered=[None, measure(1 / 30)],
    )).replace(tables.NARROW_SPACE, " ")  # fmt: skip
    assert "The judge mllm, asked in both orders" in told and "63.3 : 36.7 [58.3–68.3], n=290" in told
    assert "10.0 % of these are ties" in told and "no usable answer about 10 of 300 pairs" in told


def test_nothing_is_told_of_a_judge_who_was_not_asked_also_in_an_old_evaluation():
    assert tables.preference(evaluation(preferred=[], ties=[], unanswered=[])) == tables.preference(evaluation()) == ""


def test_a_judge_who_answered_nothing_prefers_nothing():
    nothing = {"value": None, "low": None, "high": None, "n": 0}
    silent = {"value": 1.0, "low": 0.9, "high": 1.0, "n": 7}
    told = tables.preference(evaluation(preferred=[None, nothing], ties=[None, nothing], unanswered=[None, silent]))
    assert "prefers" not in told and "no usable answer about 7 of 7 pairs" in told


def test_statistics_of_the_pixels_are_rows_with_their_change_since_the_first_image():
    found = {"sharpness": {"level": [measure(1204.5), measure(602.2)], "change": [None, measure(0.5)]}}
    rows = {row.label: row for row in tables.by_turn([evaluation(statistics=found)]).rows}
    assert [cell.text for cell in rows["refined"].cells] == ["1,204.5", "602.2"]
    assert rows["refined"].group == "sharpness"
    assert [cell.text.replace(tables.NARROW_SPACE, " ") for cell in rows["refined ÷ turn 1"].cells] == ["–", "0.50 ×"]
    assert tables.by_turn([evaluation()]).rows == []


def test_margins_of_the_gate_are_points_and_the_rest_are_shares():
    line = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9, "at_least": True, "threshold": 0.15, "passed": True}
    gate = {"lines": [line | {"name": "first image right"}, line | {"name": "repair above a plain redraw"}]}
    share, margin = tables.gate_lines(gate)
    assert (share.asked, margin.asked, margin.cell.text) == ("at least 15 %", "at least 15 points", "+20.0")
