"""RMS norm and rotary embedding with hand-written gradients.

On a CPU, a small transformer spends as much time in these two functions as in its matrix products. With hand-written
gradients, these functions read and write memory half as often as with PyTorch's automatic gradients.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(x: Float[Tensor, "*n size"], weight: Float[Tensor, "size"], eps: float) -> Float[Tensor, "*n size"]:
    """Compute x / sqrt(mean(x^2) + eps) in fp32, cast the result back to the type of x, then multiply by `weight`."""
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32:
        return _RMSNormFunction.apply(x, weight, eps)
    return F.rms_norm(x.float(), weight.shape, None, eps).to(x.dtype) * weight


class _RMSNormFunction(torch.autograd.Function):
    """RMS norm with a hand-written gradient. Let w be the weight, g the gradient of the output y, and s = 1 / rms(x).
    Then y = x s w; dw = sum g x s; dx = s (g w - x s^2 mean(g w x))."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator's types make ctx positional
        ctx, *grads: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        x, weight, scale = ctx.saved_tensors
        size = weight.shape[0]
        product = (grad * x).view(-1, size)
        grad_weight = scale.view(1, -1) @ product
        mean = (product @ weight).view_as(scale) / size
        grad_x = (grad * weight).addcmul_(x, mean.mul_(scale * scale), value=-1).mul_(scale)
        return grad_x, grad_weight.view(size), None


class Rotate(torch.autograd.Function):
    """Rotary embedding of x [N, heads, d] with cos and sin [N, 1, d/2]. The pair (x_k, x_{k+d/2}) is rotated by the
    k-th angle. The backward pass rotates the gradient by the opposite angle."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator's types make ctx positional
        ctx, *grads: Tensor
    ) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, sin, -1), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    turned = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    first, second = x.chunk(2, dim=-1)
    to_first, to_second = turned.chunk(2, dim=-1)
    torch.mul(first, cos, out=to_first).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=to_second).addcmul_(first, sin, value=direction)
    return turned
