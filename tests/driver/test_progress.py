"""Progress where there is no terminal: a plain line now and then, and always the last."""

from irg_rl.driver.progress import bar


def test_the_last_step_is_always_told(capsys):
    with bar("SFT stage1", 3) as progress:
        for note in ("ce 3", "ce 2", "ce 1"):
            progress.advance(note=note)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("SFT stage1: 3/3") and line.endswith("ce 1")


def test_a_resumed_stage_counts_on(capsys):
    with bar("RL", 10, start=8) as progress:
        progress.advance(2)
    assert "RL: 10/10" in capsys.readouterr().out


def test_lines_do_not_flood_a_log(capsys):
    with bar("many", 1000) as progress:
        for _ in range(999):
            progress.advance()
    assert capsys.readouterr().out == ""
