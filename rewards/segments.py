"""Score the images of a group (all samples of one prompt). A recipe can also have scorers for reflections (the model's
texts about its images) and for edits (changes from one image to the next). Reflections and edits are then scored,
too."""

from irg_rl.trajectory import Group, ImageSegment, TextSegment, score_images
from rewards.hub import RewardHub


def score_group(group: Group, hub: RewardHub) -> None:
    """Score all images of a group, and also its reflections and edits (changes from one image to the next). `hub` has
    the scorers. The scores are stored in three places:
    * scores of an image: field `rewards` of its trajectories
    * scores of a reflection: field `scores` of the reflection
    * scores of an edit: field `scores` of the refined image

    A text or image that several trajectories share is scored only once.
    """
    score_images(group.trajectories, hub.score)
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
    if hub.names("reflection") and reflections:
        texts, looked_at = zip(*reflections.values())
        found = hub.score_reflections(
            [image.pixels.numpy() for image in looked_at], [group.prompt] * len(texts), [text.text for text in texts]
        )
        for number, text in enumerate(texts):
            text.scores = {name: values[number] for name, values in found.items()}
    if hub.names("edit") and edits:
        before, texts, after = zip(*edits.values())
        found = hub.score_edits(
            [image.pixels.numpy() for image in before], [text.text for text in texts],
            [image.pixels.numpy() for image in after], [group.prompt] * len(texts),
        )  # fmt: skip
        for number, image in enumerate(after):
            image.scores = {name: values[number] for name, values in found.items()}
