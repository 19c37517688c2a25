"""Scoring functions that a recipe can name."""

from trl.rewards import get_repetition_penalty_reward

from tests.rewards.scorers import Brightness


def brightness(images, prompts, scale: float = 1.0):
    return [scale * float(image.mean()) / 255 for image in images]


def letters(images, prompts, texts):
    return [None if text == "?" else float(len(text)) for text in texts]


def brightened(before, texts, after, prompts):
    return [float(b.mean() - a.mean()) for a, b in zip(before, after, strict=True)]


def ranks(images, prompt):
    """0 for the darkest image, 1 for the next, ..."""
    order = sorted(range(len(images)), key=lambda i: images[i].mean())
    return [float(order.index(i)) for i in range(len(images))]


def factory(name, scale: float = 1.0):
    """Makes a scorer itself."""
    return Brightness(name)


def shades(pictures):
    return [0.0 for _ in pictures]


def agrees(completions, solution, **kwargs):
    """A reward function of trl that reads a column of the data set."""
    return [float(said[0]["content"] == wanted) for said, wanted in zip(completions, solution, strict=True)]


def plain(prompts, completions, images, **kwargs):
    """A reward function of trl for texts, not messages. It looks at the images."""
    return [float(len(p) + len(c) + i[0].size[0]) for p, c, i in zip(prompts, completions, images, strict=True)]


penalty = get_repetition_penalty_reward(ngram_size=1)
