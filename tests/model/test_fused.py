"""Hand-written gradients against autograd's."""

import pytest
import torch

from irg_rl.model.fused import Rotate, rms_norm


@pytest.mark.parametrize("shape", [(7, 16), (5, 3, 16)])
def test_rms_norm_and_its_gradients_are_the_formulas(shape):
    torch.manual_seed(0)
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(16, requires_grad=True)
    upstream = torch.randn(shape)
    plain = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight
    fused = rms_norm(x, weight, 1e-6)
    torch.testing.assert_close(fused, plain)
    expected = torch.autograd.grad(plain, (x, weight), upstream)
    torch.testing.assert_close(torch.autograd.grad(fused, (x, weight), upstream), expected)


def test_bf16_norms_keep_their_statistics_in_fp32():
    x = torch.full((1, 1024), 3.0, dtype=torch.bfloat16)
    x[0, 0] = 100.0
    exact = x.double() / x.double().square().mean(-1, keepdim=True).sqrt()
    assert torch.equal(rms_norm(x, torch.ones(1024, dtype=torch.bfloat16), 1e-6), exact.bfloat16())


def test_rotation_and_its_gradient_pass_gradcheck():
    torch.manual_seed(0)
    angle = torch.randn(4, 1, 3, dtype=torch.double)
    x = torch.randn(4, 2, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: Rotate.apply(x, angle.cos(), angle.sin()), x)


def test_rotation_keeps_lengths_and_depends_on_distance_alone():
    q, k = torch.randn(1, 1, 8), torch.randn(1, 1, 8)

    def at(x, position):
        angle = position * torch.tensor([1.0, 0.3, 0.1, 0.01])
        return Rotate.apply(x, angle.cos().view(1, 1, 4), angle.sin().view(1, 1, 4))

    torch.testing.assert_close(at(q, 5.0).norm(), q.norm())
    torch.testing.assert_close((at(q, 9.0) * at(k, 4.0)).sum(), (at(q, 6.0) * at(k, 1.0)).sum())
