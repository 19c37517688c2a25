"""Counts the memory of a forward pass without running it.

The code of the model runs on PyTorch's fake tensors, which have a size, a type and a device but no contents. Therefore
the count stays correct when the code of the model changes. Only tensors are counted, not the workspace of kernels or
the memory that the allocator reserves.
"""

import weakref
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from irg_rl.model.attention import block_mask, flex_attention
from irg_rl.model.autoencoder import Autoencoder
from irg_rl.model.layout import Visibility
from irg_rl.model.pack import Pack
from irg_rl.model.unified import UnifiedModel


@dataclass(frozen=True)
class Footprint:
    """Memory of one forward pass in bytes, without the weights. `kept` is saved for the backward pass. `working` is
    needed in addition to `kept` at the moment of the highest memory use."""

    kept: int  # saved for the backward pass
    working: int  # held in addition to `kept` when memory use is highest


def training_footprint(
    model: UnifiedModel, pack: Pack, device: str, dtype: torch.dtype, context_grad: str = "full"
) -> Footprint:
    """Return the memory that the forward pass `model(pack)` takes in training, when gradients will be computed. The
    model may be on PyTorch's meta device (without values). `device` and `dtype` are the device and the number type of
    the training. `context_grad` says whether the loss of a noisy image also gives gradients to its context (see
    `attention.ContextGrad`).

    Some tensors are needed only for the gradients of some weights. If these weights are frozen, such tensors are not
    stored and not counted. With activation checkpointing, the forward pass stores only the input of each layer. The
    backward pass then needs the activations of one layer at a time, and these are counted as well.
    """
    trunk = model.language_model.model
    with FakeTensorMode() as mode:
        weights = _weights(model, device, dtype)
        fake = _pack(mode, pack).to(device)
        saved = SavedBytes(weights.values())
        with LiveBytes(weights.values()) as live, saved, _FusedAttention():
            output = functional_call(model, weights, (fake,), {"context_grad": context_grad})
        if not trunk.recompute:
            return Footprint(saved.total, live.peak - saved.total)
        kept = live.now - sum(tensor.untyped_storage().nbytes() for tensor in (output.logits, output.velocity))
    trunk.recompute = False
    whole = training_footprint(model, pack, device, dtype, context_grad)
    trunk.recompute = True
    layer = (whole.kept - kept) // len(trunk.layers)
    return Footprint(kept, max(live.peak - kept, layer + whole.working))


def drawing_footprint(vae: Autoencoder, images: int, size: tuple[int, int], device: str) -> int:
    """Return the peak memory, in bytes, that the autoencoder needs in fp32 for a batch of images, without its weights.
    `images` is the number of images, and `size` is their (height, width) in pixels. The memory of encoding and the
    memory of decoding are counted separately, and the larger number is returned."""
    height, width = size
    side = vae.config.downsample
    shapes = {
        vae.kl.decoder: (images, vae.config.latent_channels, height // side, width // side),
        vae.kl.encoder: (images, 3, height, width),
    }
    peaks = []
    for module, shape in shapes.items():
        with FakeTensorMode(), torch.no_grad():
            weights = _weights(module, device, torch.float32)
            with LiveBytes(weights.values()) as live, _FusedAttention():
                functional_call(module, weights, (torch.empty(shape, device=device),))
        peaks.append(live.peak)
    return max(peaks)


def velocity_footprint(model: UnifiedModel, rows: int, grid: tuple[int, int], context: int, device: str) -> int:
    """Return the peak memory, in bytes, of one denoising step of a batch of images, without the weights and the
    key/value cache.

    rows: number of images, each with its own cached context. grid: (rows, columns) of latent tokens of an image.
    context: number of tokens of each context. The model must be on PyTorch's meta device (without values), in the
    number type that is used for sampling.
    """
    cache = model.new_cache(rows, context)
    cache.lengths.fill_(context)
    x = torch.zeros(rows, grid[0] * grid[1], model.config.latent_dim)
    own = [*model.state_dict().values(), *cache.keys, *cache.values]
    with LiveBytes(own) as live, _FusedAttention(repeats_heads=device == "cuda"):
        model.velocity(cache, x, torch.zeros(rows), grid)
    return live.peak


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that PyTorch saves for the backward pass inside this `with` block. Memory that several tensors
    share counts once. The tensors in `weights` are not counted. Works for real tensors and for fake tensors (without
    values)."""

    def __init__(self, weights) -> None:
        self._own = {_storage(w) for w in weights}
        self._sizes: dict[int, int] = {}
        super().__init__(self._keep, lambda tensor: tensor)

    @property
    def total(self) -> int:
        return sum(self._sizes.values())

    def _keep(self, tensor: Tensor) -> Tensor:
        if (key := _storage(tensor)) not in self._own:
            self._sizes[key] = tensor.untyped_storage().nbytes()
        return tensor


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside this `with` block. The tensors in `weights` are not counted.
    `now` is the number of bytes of the counted tensors that still exist, and `peak` is the largest value that `now` has
    had."""

    def __init__(self, weights) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {_storage(w) for w in weights}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _storage(leaf) not in self._known:
                self._enter(leaf.untyped_storage())
        return result

    def _enter(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class _AttentionBytes(torch.autograd.Function):
    """Replaces a fused attention kernel when memory is counted. It computes no attention, but it keeps the same memory
    as the kernel: its inputs, its output and one fp32 number per query and head."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        normalizers = q.new_empty(q.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, mask, out, normalizers)
        return out


class _FusedAttention(TorchFunctionMode):
    """Replaces PyTorch's attention by `_AttentionBytes`, because it is not known which kernel a GPU would choose. The
    masks of FlexAttention are not counted: they are small, with only a few numbers for each block of 128 x 128 (query,
    key) pairs.

    If `repeats_heads` is True, keys and values are first repeated for every query head, as attention.py does on CUDA.
    """

    def __init__(self, repeats_heads: bool = False) -> None:
        super().__init__()
        self._repeats_heads = repeats_heads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            q, k, v = args
            if self._repeats_heads and (shared := q.shape[1] // k.shape[1]) > 1:
                k, v = k.repeat_interleave(shared, dim=1), v.repeat_interleave(shared, dim=1)
            return _AttentionBytes.apply(q, k, v, (kwargs or {}).get("attn_mask"))
        if func is flex_attention:
            return _AttentionBytes.apply(*args)
        if func is block_mask:
            return None
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _weights(module: nn.Module, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return fake weights (without values) for every entry of the module's state dict. Parameters have the number type
    `dtype`; buffers (the position tables) keep their own type."""
    return {
        name: torch.empty(tensor.shape, device=device, dtype=dtype, requires_grad=tensor.requires_grad)
        if isinstance(tensor, nn.Parameter)
        else torch.empty(tensor.shape, device=device, dtype=tensor.dtype)
        for name, tensor in module.state_dict(keep_vars=True).items()
    }


def _pack(mode: FakeTensorMode, pack: Pack) -> Pack:
    fakes = {name: mode.from_tensor(value) for name, value in vars(pack).items() if isinstance(value, Tensor)}
    visibility = Visibility(*(mode.from_tensor(part) for part in vars(pack.visibility).values()))
    return replace(pack, visibility=visibility, **fakes)
