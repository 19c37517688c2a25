"""Scorers that misbehave in a stated way, loaded by the hub through 'package.module:Class' like a user's own."""

import math

import torch

from rewards.base import Preference


class Brightness:
    """Mean brightness in [0, 1]: a scorer with a known answer."""

    def __init__(self, name):
        self.name, self.last_error = name, ""

    def check(self):
        pass

    def score(self, images, prompts):
        return [float(image.mean()) / 255 for image in images]


class Moving(Brightness):
    """Has a real model, which writes down where it is moved, and where it is when it scores."""

    def __init__(self, name):
        super().__init__(name)
        self.went = went = []

        class Model(torch.nn.Linear):
            def to(self, device):
                went.append(str(device))
                return super().to(device)

        self.model = Model(1, 1)

    def models(self):
        return [self.model]

    def score(self, images, prompts):
        self.went.append("scores")
        return super().score(images, prompts)


class Wordy(Brightness):
    """Reflections: letters of the text over the brightness of the image, in units of 1. Edits: how much brighter the
    second image is. Counts what it was shown."""

    def __init__(self, name):
        super().__init__(name)
        self.shown = 0

    def score_reflections(self, images, prompts, texts):
        self.shown += len(texts)
        return [len(text) - float(image.mean()) / 255 for image, text in zip(images, texts, strict=True)]

    def score_edits(self, before, texts, after, prompts):
        self.shown += len(texts)
        return [float(b.mean() - a.mean()) / 255 for a, b in zip(before, after, strict=True)]


class Flaky(Brightness):
    """Fails on an image the first `failures` times it is shown; black images always fail."""

    def __init__(self, name, failures=1):
        super().__init__(name)
        self.failures, self.shown = failures, {}

    def score(self, images, prompts):
        values = []
        for image in images:
            key = image.tobytes()
            self.shown[key] = self.shown.get(key, 0) + 1
            failed = self.shown[key] <= self.failures or not image.any()
            values.append(None if failed else float(image.mean()) / 255)
        if None in values:
            self.last_error = "the flaky scorer blinked"
        return values


class NotANumber(Brightness):
    def score(self, images, prompts):
        return [math.nan] * len(images)


class Miscounting(Brightness):
    def score(self, images, prompts):
        return [1.0]


class Comparing:
    """Prefers the brighter of two images and has nothing else to say."""

    def __init__(self, name):
        self.name, self.last_error, self.asked = name, "", 0

    def check(self):
        pass

    def prefer(self, prompts, first, second):
        self.asked += len(prompts)
        won = [float(a.mean() > b.mean()) for a, b in zip(first, second, strict=True)]
        return [Preference(value, value) for value in won]


class FlakyRanks(Comparing):
    """0 for the darkest image of a group, 1 for the next, ...; the darkest has no score at the first call."""

    def score_group(self, images, prompt):
        self.asked += 1
        order = sorted(range(len(images)), key=lambda i: images[i].mean())
        return [None if self.asked == 1 and order[0] == i else float(order.index(i)) for i in range(len(images))]
