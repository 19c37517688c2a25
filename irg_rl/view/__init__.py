"""The trajectory browser `irg-rl view`: a local web page about run folders and folders of groups.

Everything on the page is read from files, never from a running process. So the page works while a run writes, after the
run, and on a copy of a run folder. It needs neither torch nor Ray.

| module | what it does |
|---|---|
| `sources` | finds runs and folders of groups, and refuses files outside the given folders |
| `run_files` | reads the recipe, the stages and the metrics of a run |
| `evaluated`, `pictures` | read the evaluated trajectories of a run: results, stored texts and images |
| `groups` | reads stored groups of RL: all samples of one prompt, with their advantages |
| `group_health` | adds lines about stored groups to those of irg_rl/evaluate/health.py |
| `filters` | choose and sort the rows of an evaluation |
| `curves`, `charts` | choose the curves, and draw them as SVG |
| `values` | reads single values of files that may be damaged |
| `edits` | finds the edit in a reflection |
| `listing`, `words` | what lists say about a run; numbers, words and addresses of the pages |
| `app`, `server` | the addresses of the pages, and the HTTP server |
"""
