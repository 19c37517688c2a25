"""Study: does RL need to train the texts, the images, or both? RL is run with only the text loss, with only the image
loss, and with both. Each run with the image loss has a second variant. In this variant, the gradient of the image loss
does not flow into the context (everything before the image)."""

from irg_rl.config import nearest
from irg_rl.errors import InputError
from irg_rl.studies.forks import ForkPlan, Forks, arm_table, gain_plate, gained, reward_plate, turn_plate
from irg_rl.studies.frame import Frame
from irg_rl.studies.measures import words
from irg_rl.studies.settings import ForkSettings
from irg_rl.studies.study import Findings

ARMS = {
    "joint": {},
    "joint, context detached": {"rl.context_grad": "detached"},
    "text only": {"rl.image_weight": 0.0, "rl.kl_image": 0.0},
    "image only": {"rl.text_weight": 0.0, "rl.kl_text": 0.0, "rl.context_grad": "full"},
    "image only, context detached": {"rl.text_weight": 0.0, "rl.kl_text": 0.0, "rl.context_grad": "detached"},
}
"""The arms (variants of RL that are compared): name -> settings that the arm changes."""


class ModalityStudy(Forks[ForkSettings]):
    name = "modality"
    question = "Does RL need the text, the images, or both?"
    settings_type = ForkSettings

    def plans(self) -> dict[tuple[str, int], ForkPlan]:
        arms = list(ARMS) if self.settings.arms is None else self.settings.arms
        unknown = [arm for arm in arms if arm not in ARMS]
        if unknown:
            raise InputError(f"study.arms: unknown arm {unknown[0]!r}{nearest(unknown[0], list(ARMS))}")
        return {
            (arm, seed): ForkPlan({"rl.context_grad": "full", **ARMS[arm], "rl.seed": seed})
            for arm in arms for seed in self.settings.seeds
        }  # fmt: skip

    def findings(self, frame: Frame) -> Findings:
        stamp = f"{self.stamp(frame)} | seeds of RL {', '.join(map(str, self.settings.seeds))}"
        caption = "Right at the last turn after RL less before it, paired over prompts; seeds are pooled."
        plates = [
            turn_plate("turns", "After RL on text, images or both", frame, stamp),
            gain_plate("gain", "What RL gains by what it trains", caption, frame, None, stamp),
            reward_plate("rewards", "Rewards while RL trains text, images or both", frame, self.origin(frame)),
        ]
        told = ", ".join(f"{arm} {words(gain, '+.3f')}" for arm, gain in gained(frame, None).items())
        shown = [plate for plate in plates if plate is not None]
        return Findings(f"Gain at the last turn: {told}", shown, [arm_table(frame, None, self.settings.seeds)])
