"""Filters and sorts the rows of an evaluation, as the query of an address asks. The same query on the page of one
sample gives its neighbours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from irg_rl.view.evaluated import EvaluatedRow, EvaluationTable

OUTCOMES = ("repaired", "damaged", "stayed right", "stayed wrong", "no verdict")
SHOWN = {
    "": "all",
    "right": "right at the end",
    "wrong": "wrong at the end",
    **{outcome: outcome for outcome in OUTCOMES},
    "stopped": "stopped by itself",
    "went on": "did not stop",
    "disagree": "scorers disagree",
    "false reflection": "a reflection is not true",
}
"""Value of `show` in an address -> the words for it on the page."""
SORTS: dict[str, tuple[str, Callable[[EvaluatedRow], Any]]] = {
    "": ("order of the evaluation", lambda row: row.row),
    "change": ("change of the score, smallest first", lambda row: 0.0 if row.change is None else row.change),
    "gain": ("change of the score, largest first", lambda row: 0.0 if row.change is None else -row.change),
    "score": ("score of the last image, smallest first", lambda row: _last(row)),
    "disagreement": ("disagreement of scorers, largest first", lambda row: -row.disagreement),
    "images": ("number of images, most first", lambda row: -row.images),
    "task": ("task", lambda row: row.task),
    "prompt": ("prompt", lambda row: row.prompt_id),
}
"""Value of `sort` in an address -> (its words, key of a row)."""


@dataclass(frozen=True)
class Filter:
    """What an address asks for: one task, one kind of outcome, a part of the prompt's text, only rows with stored
    images, and an order. Empty texts ask for nothing."""

    task: str = ""
    show: str = ""
    text: str = ""
    pictures: bool = False
    sort: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Filter":
        """Return the filter of an address. Unknown values of `show` and `sort` are ignored."""
        show, sort = query.get("show", ""), query.get("sort", "")
        return cls(
            query.get("task", ""), show if show in SHOWN else "", query.get("text", "").strip(),
            query.get("pictures", "") == "1", sort if sort in SORTS else "",
        )  # fmt: skip

    @property
    def query(self) -> str:
        """Return the filter as part of an address. It begins with `&`, or is empty."""
        given = {
            "task": self.task, "show": self.show, "text": self.text, "pictures": "1" if self.pictures else "",
            "sort": self.sort,
        }  # fmt: skip
        words = urlencode({name: value for name, value in given.items() if value})
        return f"&{words}" if words else ""

    def choose(self, table: EvaluationTable, stored: set[int]) -> list[EvaluatedRow]:
        """Return the rows that the filter asks for, in its order. `stored` has the numbers of the rows with images."""
        wanted = self.text.casefold()
        found = [
            row
            for row in table.rows
            if (not self.task or row.task == self.task)
            and shows(row, self.show)
            and (not self.pictures or row.row in stored)
            and (not wanted or wanted in f"{row.prompt_id} {table.prompts.get(row.prompt_id, '')}".casefold())
        ]
        return sorted(found, key=lambda row: (SORTS[self.sort][1](row), row.row))


def shows(row: EvaluatedRow, show: str) -> bool:
    """Return whether a row is of the kind `show`, one of the keys of SHOWN."""
    last = row.correct[-1] if row.correct else None
    match show:
        case "":
            return True
        case "right":
            return last is True
        case "wrong":
            return last is False
        case "stopped" | "went on":
            return row.stopped == (show == "stopped")
        case "disagree":
            return row.scorers_disagree
        case "false reflection":
            return False in row.reflections
        case _:
            return row.outcome == show


def counts(rows: Sequence[EvaluatedRow]) -> dict[str, int]:
    """Return kind -> number of rows, for all kinds of SHOWN."""
    return {show: sum(shows(row, show) for row in rows) for show in SHOWN}


def _last(row: EvaluatedRow) -> float:
    last = row.score[-1] if row.score else None
    return 2.0 if last is None else last  # a score is at most 1; rows without one come last
