"""Scores of sampled trajectories."""

from collections.abc import Callable, Mapping, Sequence

from irg_rl.trajectory import Prompt, Trajectory
from rewards.base import Image, Score

ScoreAll = Callable[[list[Image], list[Prompt]], Mapping[str, Sequence[Score]]]
"""Pictures and their prompts -> for every scorer one score each, as `RewardHub.score` gives them."""


def score_images(trajectories: Sequence[Trajectory], score: ScoreAll) -> None:
    """Every image is scored, one that siblings share once; the scores become the trajectories' rewards."""
    drawn = {id(image): (image, t.prompt) for t in trajectories for image in t.images}
    pixels = [image.pixels.cpu().numpy() for image, _ in drawn.values()]
    scores = score(pixels, [prompt for _, prompt in drawn.values()])
    places = {key: place for place, key in enumerate(drawn)}
    for trajectory in trajectories:
        own = [places[id(image)] for image in trajectory.images]
        trajectory.rewards = {name: [values[place] for place in own] for name, values in scores.items()}
