"""The pages: reads the files that a page needs, and fills in its template. It knows nothing of HTTP.

All text of a page comes from files, and much of it was written by a model. So the templates escape everything.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from irg_rl.errors import InputError
from irg_rl.evaluate import health
from irg_rl.evaluate.health_checks import percent
from irg_rl.evaluate.learning import learning
from irg_rl.view import charts, curves, pictures
from irg_rl.view.edits import marked
from irg_rl.view.evaluated import EvaluatedRow, EvaluationTable, evaluation_names, read_evaluation
from irg_rl.view.filters import SHOWN, SORTS, Filter, counts
from irg_rl.view.group_health import health_of_groups
from irg_rl.view.groups import StoredGroup, group_folders, pixels, read_groups
from irg_rl.view.listing import accuracy, has_small_images, run_line, stage_lines
from irg_rl.view.run_files import RunFiles
from irg_rl.view.sources import Library, RunSource
from irg_rl.view.words import (
    folder_address,
    group_address,
    place_words,
    sample_address,
    shown_number,
    signed,
    turn_words,
    whole,
)

PER_PAGE = 60
"""Rows of one page of the table of samples."""
OVERLAID = 4
"""Number of runs that are chosen for the curves if the address names none: those that wrote last."""
MOST_LOOKS = 30
"""Number of folders of groups that the health lines are computed from."""
STATIC = ("style.css", "script.js")
Query = Mapping[str, str]


class Pages:
    """Makes the pages. Every method returns the HTML of one page, or the bytes of one file. Methods raise InputError if
    the address names something that is not there."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._environment = Environment(
            loader=PackageLoader("irg_rl.view", "pages"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._environment.filters.update(
            marked=marked, number=shown_number, signed=signed, percent=percent, turn_words=turn_words,
            run_address=lambda name: quote(name, safe="~"), sparkline=charts.sparkline,
        )  # fmt: skip

    def _page(self, template: str, title: str, base: str, **values: Any) -> str:
        return self._environment.get_template(template).render(title=title, base=base, **values)

    def problem(self, message: str, base: str) -> str:
        return self._page("problem.html.jinja", "Not there", base, message=message)

    def static(self, name: str) -> bytes:
        if name not in STATIC:
            raise InputError(f"no such file: {name}")
        return Path(__file__).with_name("pages").joinpath(name).read_bytes()

    # the list of runs, side by side

    def runs(self, asked: Sequence[str], names: Sequence[str], base: str) -> str:
        """Return the list of all runs, with the curves of some of them in common charts. `asked` are the names of these
        runs, and `names` are logged numbers to draw in addition."""
        sources = self.library.sources()
        lines = sorted((run_line(source) for source in sources.values()), key=lambda line: -line.written)
        newest = [line.source.name for line in lines if line.source.is_run and line.updates][:OVERLAID]
        chosen = [name for name in sources if name in asked] or [name for name in sources if name in newest]
        series = {name: RunFiles(sources[name]).series for name in chosen}
        known = [name for name in names if any(name in found for found in series.values())]
        drawn = [*(curves.chosen_chart(name, series) for name in known), *curves.default_charts(series)]
        return self._page(
            "runs.html.jinja", "Runs", base, lines=lines, chosen=chosen, charts=[charts.draw(c) for c in drawn],
            names=curves.all_names(series), drawn_names=known, roots=self.library.roots,
        )  # fmt: skip

    # one run

    def run(self, name: str, names: Sequence[str], base: str) -> str:
        source = self._source(name)
        if not source.is_run:
            return self.groups(name, {}, base)
        files = RunFiles(source)
        metrics = files.metrics
        series, stage = files.series, health.rl_stage(metrics)
        lines: list[health.HealthLine] = []
        if stage is not None:
            looks, place = self._looks(files)
            lines = [*health.health(series, stage), *health_of_groups(looks, place)]
        known = [number for number in names if number in series]
        drawn = [*(curves.chosen_chart(number, {name: series}) for number in known),
                 *curves.default_charts({name: series})]  # fmt: skip
        return self._page(
            "run.html.jinja", name, base, **self._about(files, ""), stages=stage_lines(files, metrics),
            lines=health.in_order(lines), headline=health.headline(lines), stage=stage,
            learns=learning([row for row in metrics if row["stage"] == stage]).to_dict() if stage else None,
            seconds=health.seconds_by_part(series, stage) if stage else {"seconds": [], "busy": []},
            failures=health.scorer_failures(series, stage) if stage else [],
            charts=[charts.draw(chart) for chart in drawn], names=curves.all_names({name: series}), drawn_names=known,
            evaluations=[(n, accuracy(files, n)) for n in evaluation_names(files)], folders=group_folders(files),
        )  # fmt: skip

    def report(self, name: str) -> bytes:
        path = self._source(name).path("report.html")
        if not path.is_file():
            raise InputError(f"{name} has no report.html yet; `irg-rl report` writes it")
        return path.read_bytes()

    def _looks(self, files: RunFiles) -> tuple[list[list[StoredGroup]], str]:
        """Return the groups of each stored update, and a text that says which the newest is."""
        folders = group_folders(files)
        kind = folders[0].split("/")[0] if folders else ""
        folders = [folder for folder in folders if folder.split("/")[0] == kind][-MOST_LOOKS:]
        looks = [groups for folder in folders if (groups := read_groups(files, folder))]
        return looks, place_words(looks[-1][0].folder) if looks else ""

    # samples of an evaluation

    def samples(self, name: str, query: Query, base: str) -> str:
        files = RunFiles(self._source(name))
        table, names = self._evaluation(files, query)
        asked = Filter.of(query)
        stored = pictures.stored_rows(files, table.name, table.rows)
        rows = asked.choose(table, stored)
        page = min(max(whole(query.get("page"), 1), 1), max(1, -(-len(rows) // PER_PAGE)))
        return self._page(
            "samples.html.jinja", f"{name}: samples of {table.name}", base, **self._about(files, "samples"),
            table=table, evaluations=names, asked=asked, rows=rows[(page - 1) * PER_PAGE : page * PER_PAGE],
            found=len(rows), page=page, pages=-(-len(rows) // PER_PAGE), stored=stored, counts=counts(table.rows),
            shows=SHOWN, sorts=SORTS, tasks=sorted({row.task for row in table.rows}), small=has_small_images(files),
            scorers=sorted({scorer for row in table.rows for scorer in row.rewards}),
        )  # fmt: skip

    def sample(self, name: str, query: Query, base: str) -> str:
        files = RunFiles(self._source(name))
        table, _ = self._evaluation(files, query)
        row = self._row(table, query)
        asked = Filter.of(query)
        rows = asked.choose(table, pictures.stored_rows(files, table.name, table.rows))
        place = next((i for i, other in enumerate(rows) if other.row == row.row), None)
        before = rows[place - 1] if place else None
        after = rows[place + 1] if place is not None and place + 1 < len(rows) else None
        arms = []
        for arm, own in table.arms.items():
            result = next((other for other in own if other.row == row.row), None)
            if result is not None:
                arms.append((arm, result, pictures.shown_trajectory(files, table.name, arm, result)))
        return self._page(
            "sample.html.jinja", f"{name}: {row.prompt_id}", base, **self._about(files, "samples"), table=table,
            row=row, arms=arms, place=place, found=len(rows), asked=asked, prompt=table.prompts.get(row.prompt_id),
            before=before and sample_address(table.name, before) + asked.query,
            after=after and sample_address(table.name, after) + asked.query,
            up=f"samples?{urlencode({'evaluation': table.name})}{asked.query}",
        )  # fmt: skip

    def picture(self, name: str, query: Query) -> bytes:
        files = RunFiles(self._source(name))
        table, _ = self._evaluation(files, query)
        row, arm = self._row(table, query), query.get("arm", "")
        own = next((other for other in table.arms.get(arm, []) if other.row == row.row), None)
        if own is None:
            raise InputError(f"{table.name} has no arm {arm!r}")
        return pictures.image(files, table.name, arm, own, whole(query.get("turn"), 0))

    # groups of RL

    def groups(self, name: str, query: Query, base: str) -> str:
        files = RunFiles(self._source(name))
        folders = group_folders(files)
        folder = query.get("folder") or (newest_folder(folders) if folders else "")
        found = read_groups(files, folder) if folder else []
        place = folders.index(folder) if folder in folders else None
        return self._page(
            "groups.html.jinja", f"{name}: groups", base, **self._about(files, "groups"), folders=folders,
            folder=folder, groups=found, place_words=place_words, small=has_small_images(files),
            before=folder_address(folders[place - 1]) if place else None,
            after=folder_address(folders[place + 1]) if place is not None and place + 1 < len(folders) else None,
        )  # fmt: skip

    def group(self, name: str, query: Query, base: str) -> str:
        files = RunFiles(self._source(name))
        found, group = self._group(files, query)
        return self._page(
            "group.html.jinja", f"{name}: {group.prompt}", base, **self._about(files, "groups"), group=group,
            trajectories=group.trajectories(), place=group.place, found=len(found), where=place_words(group.folder),
            before=group_address(group.folder, group.place - 1) if group.place else None,
            after=group_address(group.folder, group.place + 1) if group.place + 1 < len(found) else None,
            up=folder_address(group.folder), address=group_address(group.folder, group.place),
        )  # fmt: skip

    def sibling(self, name: str, query: Query, base: str) -> str:
        files = RunFiles(self._source(name))
        _, group = self._group(files, query)
        place = whole(query.get("sibling"), 0)
        if not 0 <= place < len(group.siblings):
            raise InputError(f"{group.folder}: group {group.place} has siblings 0 to {len(group.siblings) - 1}")
        up = group_address(group.folder, group.place)

        def address(other: int) -> str | None:
            return f"sibling{up.removeprefix('group')}&sibling={other}" if 0 <= other < len(group.siblings) else None

        return self._page(
            "sibling.html.jinja", f"{name}: {group.prompt}", base, **self._about(files, "groups"), group=group,
            trajectory=group.trajectory(place), place=place, found=len(group.siblings), up=up,
            where=place_words(group.folder), before=address(place - 1), after=address(place + 1),
        )  # fmt: skip

    def segment(self, name: str, query: Query) -> bytes:
        files = RunFiles(self._source(name))
        return pixels(files, query.get("folder", ""), whole(query.get("segment"), -1))

    # parts that several pages need

    def _about(self, files: RunFiles, here: str) -> dict[str, Any]:
        """Return what the head of every page of a run shows. `problems` is the list itself, so that it has problems
        that are found later, while the page is made."""
        source, described = files.source, files.recipe.get("description", "")
        return {
            "source": source, "here": here, "problems": files.problems, "description": described,
            "has_report": source.is_run and (source.folder / "report.html").is_file(),
        }  # fmt: skip

    def _source(self, name: str) -> RunSource:
        found = self.library.sources()
        if name not in found:
            raise InputError(f"{name}: no such run in the given folders")
        return found[name]

    def _evaluation(self, files: RunFiles, query: Query) -> tuple[EvaluationTable, list[str]]:
        names = evaluation_names(files)
        if not names:
            raise InputError(f"{files.source.name} has no evaluation yet")
        illustrated = (other for other in names if pictures.is_illustrated(files, other))
        name = query.get("evaluation") or next(illustrated, names[0])
        table = read_evaluation(files, name)
        if table is None:
            raise InputError(f"{files.source.name} has no evaluation {name!r}; it has {', '.join(names)}")
        return table, names

    def _row(self, table: EvaluationTable, query: Query) -> EvaluatedRow:
        prompt_id, sample = query.get("prompt", ""), whole(query.get("sample"), 0)
        row = table.find(prompt_id, sample)
        if row is None:
            raise InputError(f"{table.name} has no sample {sample} of the prompt {prompt_id!r}")
        return row

    def _group(self, files: RunFiles, query: Query) -> tuple[list[StoredGroup], StoredGroup]:
        folder, place = query.get("folder", ""), whole(query.get("group"), 0)
        found = read_groups(files, folder)
        if not 0 <= place < len(found):
            told = files.problems[0] if files.problems else f"{folder or 'no folder'}: there is no group {place}"
            raise InputError(told)
        return found, found[place]


def newest_folder(folders: Sequence[str]) -> str:
    """Return the last folder of the first kind: looks, if there are any."""
    kind = folders[0].split("/")[0] if "/" in folders[0] else ""
    return [folder for folder in folders if not kind or folder.split("/")[0] == kind][-1]
