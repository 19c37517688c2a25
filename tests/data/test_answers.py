"""The log of answers and the budget."""

import json

import pytest

from irg_rl.config.data import BudgetRecipe, ServiceRecipe
from irg_rl.data.answers import AnswerLog, Budget, BudgetSpent, QuestionFailed, Service
from irg_rl.data.writing import said as read_said
from irg_rl.errors import InputError
from rewards.base import ScorerUnavailable
from tests.data.servers import said
from tests.rewards.servers import endpoint


def service(folder, url: str, model: str = "m", **limits) -> Service:
    log = AnswerLog(folder / "answers.jsonl")
    settings = ServiceRecipe(base_url=url, model=model, retries=0)
    return Service("teacher", settings, url, log, Budget(BudgetRecipe(**limits), log))


def ask(teacher: Service, text: str = "what ?", **options):
    return teacher.ask("plan", "p1", text, (), read_said, **options)["text"]


def test_an_answer_is_remembered_over_calls_of_the_program(tmp_path):
    with endpoint(lambda number, body: (200, said(f"answer {number}"), 0)) as (url, requests):
        assert ask(service(tmp_path, url)) == "answer 1" == ask(service(tmp_path, url))
        assert ask(service(tmp_path, url), "and what ?") == "answer 2"
        assert ask(service(tmp_path, url, model="other")) == "answer 3"
        assert ask(service(tmp_path, url), is_remembered=False) == "answer 4"
    assert len(requests) == 4


def test_a_failure_is_logged_counted_and_asked_again(tmp_path):
    replies = iter([(200, {"choices": []}, 0), (200, said("good"), 0)])
    with endpoint(lambda number, body: next(replies)) as (url, _):
        with pytest.raises(QuestionFailed, match="no answer of the teacher: no chat completion"):
            ask(service(tmp_path, url))
        again = service(tmp_path, url)
        assert ask(again) == "good"
    assert again.log.counted == {"teacher": {"calls": 2, "failed": 1, "tokens": 100, "uncounted": 0}}
    entries = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [bool(entry["failure"]) for entry in entries] == [True, False]
    assert {(entry["who"], entry["about"], entry["prompt"]) for entry in entries} == {("teacher", "plan", "p1")}


def test_a_line_that_was_cut_off_is_removed_and_its_question_asked_again(tmp_path):
    with endpoint(lambda number, body: (200, said(f"answer {number}"), 0)) as (url, _):
        teacher = service(tmp_path, url)
        assert (ask(teacher, "one ?"), ask(teacher, "two ?")) == ("answer 1", "answer 2")
        path = tmp_path / "answers.jsonl"
        path.write_text(path.read_text()[:-20])
        again = service(tmp_path, url)
        assert (ask(again, "one ?"), ask(again, "two ?")) == ("answer 1", "answer 3")
    assert len(AnswerLog(path).places) == 2


def test_a_file_that_is_no_log_is_refused(tmp_path):
    for content in ('{"prompt": "a cat"}\n', "[1]\n", "half a line\n{}\n"):
        (tmp_path / "answers.jsonl").write_text(content)
        with pytest.raises(InputError, match="no log of `irg-rl data build`"):
            AnswerLog(tmp_path / "answers.jsonl")
        assert (tmp_path / "answers.jsonl").read_text() == content


def test_the_budget_counts_earlier_calls_of_the_program(tmp_path):
    with endpoint(lambda number, body: (200, said(f"answer {number}"), 0)) as (url, requests):
        assert ask(service(tmp_path, url, calls=1)) == "answer 1"
        poor = service(tmp_path, url, calls=1)
        assert ask(poor) == "answer 1", "what is known costs nothing"
        with pytest.raises(BudgetSpent):
            ask(poor, "two ?")
        assert "budget.calls=1 is spent" in poor.budget.spent
        assert ask(service(tmp_path, url, calls=2), "two ?") == "answer 2"
    assert len(requests) == 2


@pytest.mark.parametrize("usage", [None, -3, "many", True])
def test_a_budget_of_tokens_needs_a_server_that_counts_them(tmp_path, usage):
    reply = said("good", tokens=None) | {"usage": {"total_tokens": usage}}
    with endpoint(lambda number, body: (200, reply, 0)) as (url, _):
        with pytest.raises(InputError, match="use budget.calls"):
            ask(service(tmp_path, url, tokens=10))
        assert ask(service(tmp_path, url)) == "good"
        assert service(tmp_path, url).log.counted["teacher"]["uncounted"] == 1


def test_a_server_that_refuses_the_key_ends_the_build_and_is_not_logged(tmp_path):
    with (
        endpoint(lambda number, body: (401, "no such key", 0)) as (url, _),
        pytest.raises(ScorerUnavailable, match="refuses model"),
    ):
        ask(service(tmp_path, url))
    assert not (tmp_path / "answers.jsonl").exists()


def test_secrets_do_not_reach_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", "hush-hush-hush")
    log = AnswerLog(tmp_path / "answers.jsonl")
    with endpoint(lambda number, body: (500, "bad key hush-hush-hush", 0)) as (url, requests):
        settings = ServiceRecipe(base_url=url, api_key_env="TEACHER_KEY", retries=0)
        teacher = Service("teacher", settings, url, log, Budget(BudgetRecipe(), log))
        with pytest.raises(QuestionFailed):
            ask(teacher)
    assert requests[0][2]["Authorization"] == "Bearer hush-hush-hush"
    assert "hush" not in (tmp_path / "answers.jsonl").read_text()
