"""What the samplers serve is what was trained, or the run stops."""

import pytest
import torch

from irg_rl.learner.publish import PublishError, publish, require_acknowledged
from rollouts.weights import WeightsError, load_weights, weights_digest


def test_published_weights_arrive_and_are_acknowledged_by_their_digest(world):
    trained = world.copy()
    with torch.no_grad():
        trained.llm2vae.weight.add_(1.0)
    sent = publish(trained.state_dict().items(), version=3)
    receiver = world.copy()
    load_weights(receiver, sent.arrays, sent.digest)
    assert torch.equal(receiver.llm2vae.weight, trained.llm2vae.weight)
    assert weights_digest(sent.arrays) == sent.digest
    require_acknowledged(sent.version, sent.digest, [(3, sent.digest)] * 2)


def test_one_changed_number_is_refused(world):
    sent = publish(world.model.state_dict().items(), version=1)
    sent.arrays["llm2vae.bias"] = sent.arrays["llm2vae.bias"] + 1e-7
    with pytest.raises(WeightsError, match="arrived where"):
        load_weights(world.copy(), sent.arrays, sent.digest)


@pytest.mark.parametrize(("version", "digest"), [(1, "xyz"), (2, "xyz"), (1, "abc"), (None, "")])
def test_a_sampler_that_serves_other_weights_is_named(version, digest):
    """Fails where only the version or only the digest is compared."""
    serves = rf"a sampler serves {version} \({digest}\)"
    with pytest.raises(PublishError, match=rf"version 2 \(abc\) was published but {serves}"):
        require_acknowledged(2, "abc", [(2, "abc"), (version, digest)])


def test_the_digest_depends_on_names_and_bytes_and_not_on_order():
    a, b = torch.zeros(2), torch.ones(2)
    first = publish([("a", a), ("b", b)], 1).digest
    assert publish([("b", b), ("a", a)], 1).digest == first
    assert publish([("a", b), ("b", a)], 1).digest != first
    assert publish([("a", a), ("c", b)], 1).digest != first
