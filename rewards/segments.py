"""Score the images of a group (all samples of one prompt). A recipe can also have scorers for reflections (the model's
texts about its images) and for edits (changes from one image to the next). Reflections and edits are then scored,
too."""

from irg_rl.trajectory import Group, ImageSegment, Prompt, TextSegment, score_images
from rewards.base import Image, Score, mean_score
from rewards.hub import RewardHub


def score_group(group: Group, hub: RewardHub) -> None:
    """Score all images of a group, and also its reflections and edits (changes from one image to the next). `hub` has
    the scorers. The scores are stored in four places:
    * scores of an image, also of its comparison with the rest of the group: field `rewards` of its trajectories
    * scores of a reflection: field `scores` of the reflection
    * scores of its single statements: field `statements` of the reflection, and their mean in `scores`
    * scores of an edit: field `scores` of the refined image

    A text or image that several trajectories share is scored only once. A scorer that is not used for the prompt of the
    group leaves no score.
    """

    def score(images: list[Image], prompts: list[Prompt]) -> dict[str, list[Score]]:
        return hub.score(images, prompts) | hub.score_siblings(images, group.prompt)

    score_images(group.trajectories, score, hub.used)
    score_segments(group, hub)


def score_segments(group: Group, hub: RewardHub) -> None:
    """Score every reflection and every refined image in the group with the scorers of `hub`, and store the scores in
    its field `scores`. A reflection is scored by its text and the image before it. A refined image is scored as an
    edit: by the image before it, and by the reflection between the two. A text or image that several trajectories share
    is scored only once."""
    reflections: dict[int, tuple[TextSegment, ImageSegment]] = {}
    edits: dict[int, tuple[ImageSegment, TextSegment, ImageSegment]] = {}
    for trajectory in group.trajectories:
        images = {image.turn: image for image in trajectory.images}
        for text in trajectory.texts:
            if text.turn == 0:
                continue
            before = images[text.turn - 1]
            reflections[id(text)] = (text, before)
            if text.turn in images:
                edits[id(images[text.turn])] = (before, text, images[text.turn])
    if reflections:
        _score_reflections(list(reflections.values()), group.prompt, hub)
    if (names := hub.names("edit", prompt=group.prompt)) and edits:
        before, texts, after = zip(*edits.values())
        found = hub.score_edits(
            [image.pixels.numpy() for image in before], [text.text for text in texts],
            [image.pixels.numpy() for image in after], [group.prompt] * len(texts),
        )  # fmt: skip
        for number, image in enumerate(after):
            image.scores = {name: found[name][number] for name in names}


def _score_reflections(asked: list[tuple[TextSegment, ImageSegment]], prompt: Prompt, hub: RewardHub) -> None:
    """Score reflections, and the single statements in them. `asked` has each reflection with the image before it."""
    texts = [text for text, _ in asked]
    columns = [image.pixels.numpy() for _, image in asked], [prompt] * len(texts), [text.text for text in texts]
    whole, parts = hub.names("reflection", prompt=prompt), hub.names("statement", prompt=prompt)
    of_texts = hub.score_reflections(*columns) if whole else {}
    of_statements = hub.score_statements(*columns) if parts else {}
    for number, text in enumerate(texts):
        text.scores = {name: of_texts[name][number] for name in whole}
        found = {name: of_statements[name][number] for name in parts}
        text.scores |= {name: None if own is None else mean_score(own) for name, own in found.items()}
        text.statements = {name: own for name, own in found.items() if own is not None}
