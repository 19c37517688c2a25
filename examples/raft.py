"""RAFT (arXiv 2304.06767): supervised training on the trajectories that ended right. `rl.algorithm: raft:RAFT`"""

from irg_rl.algorithms.base import Selection
from irg_rl.algorithms.joint import ImageLoss
from irg_rl.algorithms.noising import NoisedAlgorithm, NoisingSettings, target_velocity
from irg_rl.credit import combine
from irg_rl.losses.flow import velocity_mse


class RAFTSettings(NoisingSettings):
    threshold: float = 1.0
    """A trajectory ended right when the reward of its last image is at least this."""


class RAFT(NoisedAlgorithm[RAFTSettings]):
    Settings, uses_credit, ignores = RAFTSettings, False, ("text_loss", "importance", "clip_text", "kl_text")

    def select(self, group, give_credit):
        rewards = combine(group, self.shared.reward_weights)
        kept = [t for t, q in zip(group.trajectories, rewards) if None not in q and q[-1] >= self.options.threshold]
        for segment in group.segments:
            segment.advantage = 1.0 if any(segment is one for t in kept for one in t.segments) else None
        return Selection(has_spread=bool(kept), empty=not kept)

    def text_loss(self, tokens):
        return -tokens.logp  # likelihood of what was written

    def image_loss(self, image):
        return ImageLoss(velocity_mse(image.score, target_velocity(image, image.score)))  # flow matching to the drawn
