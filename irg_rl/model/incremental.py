"""Incremental inference for a batch. The contexts (the tokens seen so far) are kept in a key/value cache. Each context
grows by one block (a text or an image) at a time. Token order and positions follow the same rules as in training.

Every call builds a small pack (a set of token sequences for one forward pass). The positions in the pack continue the
positions of the contexts, and its tokens also see the cached contexts. In all methods, `rows` holds the indices of the
contexts that take part. If `rows` is None, all contexts take part, in order.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from irg_rl.model.attention import Backend, flash_kernel
from irg_rl.model.cache import CachedAttention, KVCache, Mark
from irg_rl.model.config import ModelConfig
from irg_rl.model.decoding import Decode, GraphDecoder
from irg_rl.model.flash import FlashAttention
from irg_rl.model.pack import Grid, Pack, PackBuilder, SpecialIds
from irg_rl.model.transformer import Attend, Keep, LanguageModel


class Incremental:
    """The methods of `UnifiedModel` that decode with a cache. This is a base class: `UnifiedModel` provides the
    attributes that are only declared here, and the method `trunk`."""

    config: ModelConfig
    special: SpecialIds
    attention: Backend
    language_model: LanguageModel
    llm2vae: nn.Linear

    def trunk(self, pack: Pack, attend: Attend, keep: Keep | None) -> tuple[Tensor, Tensor | None]:
        """Return the hidden states of the tokens of a pack (the input of one forward pass) after the final norms. The
        result has two tensors (und, gen): text tokens and image patches are in `und`, image latents in `gen`. `gen` is
        None if the pack has no latent tokens. `attend` is the function that computes attention. If `keep` is given, it
        has the indices of the tokens to return, for und and for gen."""
        raise NotImplementedError

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """Return a cache of `batch` empty contexts. Each has room for `capacity` tokens."""
        weight = self.language_model.lm_head.weight
        return KVCache(self.config.llm, batch, capacity, weight.device, weight.dtype)

    def pack_builder(self) -> PackBuilder:
        """Return an empty builder of packs (inputs of one forward pass). It uses the boundary tokens of this model and
        the sizes of the model's position tables."""
        return PackBuilder(self.special, self.config.max_latent_size, self.config.vit.max_patches_per_side)

    @torch.no_grad()
    def prefill_text(self, cache: KVCache, ids: Sequence[list[int] | Tensor], rows: Tensor | None = None) -> None:
        """Append one text to each of several contexts (token sequences in the cache). `ids` has one text for each of
        these contexts, as token ids. The begin token bos is put before each text, and the end token eos after it. The
        texts may have different lengths. `rows` has the indices of the contexts. If `rows` is None, all contexts get a
        text."""
        builder = self.pack_builder()
        for text, start in self._starts(cache, rows, ids):
            builder.add_text(text, gap=start)
            builder.new_row()
        self._extend(cache, rows, builder, causal=True)

    @torch.no_grad()
    def prefill_image(
        self,
        cache: KVCache,
        clean: list[Float[Tensor, "G D"]],
        clean_grid: Grid,
        patches: list[Float[Tensor, "P patch"]],
        patch_grid: Grid,
        rows: Tensor | None = None,
    ) -> None:
        """Append one image to each of several contexts (token sequences in the cache). `clean` has the clean latent
        tokens of each image, and `patches` has the patches of each image for the vision tower. In the context, the
        latent tokens come first. `clean_grid` and `patch_grid` are the (rows, columns) of the latent tokens and of the
        patches. `rows` has the indices of the contexts. If `rows` is None, all contexts get an image."""
        builder = self.pack_builder()
        for (latents, seen), start in self._starts(cache, rows, list(zip(clean, patches, strict=True))):
            image = builder.add_clean(latents, clean_grid, gap=start)
            builder.add_vit(seen, patch_grid, image)
            builder.new_row()
        self._extend(cache, rows, builder)

    @torch.no_grad()
    def next_logits(
        self, cache: KVCache, token_ids: Int[Tensor, "R"], rows: Tensor | None = None
    ) -> Float[Tensor, "R V"]:
        """Append one text token to each of several contexts (token sequences in the cache). Return the logits of the
        next token of each context. `token_ids` has one token for each of these contexts. The first token of a text must
        be the begin token bos. `rows` has the indices of the contexts. If `rows` is None, all contexts get a token."""
        which = slice(None) if rows is None else rows.cpu()
        device = cache.keys[0].device
        lengths, count = cache.lengths[which], token_ids.shape[0]
        if lengths.shape[0] != count:
            raise ValueError(f"{count} tokens for {lengths.shape[0]} rows")
        alone = torch.ones(count, 1, 1, dtype=torch.bool, device=device)
        attend = CachedAttention(cache, rows, lengths, [1] * count, alone, None, write=True)
        trunk = self.language_model.model
        und, _ = trunk(trunk.embed_tokens(token_ids.to(device)), None, cache.positions[which].to(device), attend)
        cache.lengths[which] += 1
        cache.positions[which] += 1
        return self.language_model.lm_head(und)

    def decoder(self, cache: KVCache, rows: Int[Tensor, "R"], tokens: int) -> Decode:
        """Return a function `decode(ids, some)`. In each call, it appends one token to some contexts, and returns the
        logits of the next token of each of these contexts. `ids` has the tokens. `some` has the contexts, as indices in
        `rows`.

        rows: the contexts that may grow. tokens: the largest number of tokens for each context. On a GPU the function
        is a CUDA graph. Then no other call may add tokens to these contexts while the function is in use.
        """
        if cache.keys[0].is_cuda:
            return GraphDecoder(self.language_model, cache, rows, tokens)
        return lambda ids, some: self.next_logits(cache, ids, None if len(some) == cache.batch else rows[some])

    def velocity(
        self,
        cache: KVCache,
        x_t: Float[Tensor, "R G D"],
        t: Float[Tensor, "R"],
        grid: Grid,
        rows: Tensor | None = None,
        at: Mark | None = None,
    ) -> Float[Tensor, "R G D"]:
        """Return the velocity of the noisy images `x_t` at the times `t`, each image after its own cached context. The
        contexts do not change. `grid` is the (rows, columns) of the latent tokens of each image. `rows` has the indices
        of the contexts; None means all. `at` is a mark (a recorded moment of the cache). If it is given, the contexts
        are read as they were at this moment.

        This function is for a single denoising step. For several denoising steps, use `drawing`, which is faster.
        """
        return self.drawing(cache, len(x_t), grid, rows, at)(x_t, t)

    def drawing(
        self, cache: KVCache, images: int, grid: Grid, rows: Tensor | None = None, at: Mark | None = None
    ) -> Callable[[Float[Tensor, "R G D"], Float[Tensor, "R"]], Float[Tensor, "R G D"]]:
        """Return a function for the denoising steps of one batch of images. The function takes the noisy images x_t and
        their times t, and returns their velocities. The batch has one image for each of several contexts (token
        sequences in the cache). `images` is their number. `rows` has the indices of the contexts. If `rows` is None,
        all contexts get an image.

        Token order and positions are computed once for all denoising steps. Attention masks are computed again in every
        call. So the masks for guidance (without text, without image) need not all exist at the same time. The contexts
        must not change while the function is in use.

        at: a mark (a recorded moment of the cache). The contexts are read as they were at this moment. Guidance needs
        the velocity without the last text. With a mark from before that text, this velocity is computed from the same
        cache. If `at` is None, the contexts are read as they are when `drawing` is called.
        """
        past = cache.mark() if at is None else at
        which = slice(None) if rows is None else rows.cpu()
        lengths, device = past.lengths[which], cache.keys[0].device
        if (lengths > cache.lengths[which]).any():
            raise ValueError("the mark lies beyond what the cache holds")
        builder = self.pack_builder()
        empty = torch.zeros(grid[0] * grid[1], self.config.latent_dim)
        for _, start in zip(range(images), past.positions[which].tolist(), strict=True):
            builder.add_noise(empty, 0.0, grid, gap=start)
            builder.new_row()
        pack = builder.build().to(device)

        @torch.no_grad()
        def velocity(x_t: Float[Tensor, "R G D"], t: Float[Tensor, "R"]) -> Float[Tensor, "R G D"]:
            attend = self._attend(cache, rows, lengths, pack.lengths, pack, write=False, causal=False)
            latents, times = (x.to(device, torch.float32) for x in (x_t.flatten(0, 1), t))
            noisy = replace(pack, latents=latents, times=times)
            _, gen = self.trunk(noisy, attend, (pack.logit_index, pack.velocity_index))
            return self.llm2vae(gen).float().view_as(x_t)

        return velocity

    def _starts(self, cache: KVCache, rows: Tensor | None, items: Sequence) -> list[tuple]:
        """Return, for every context, a pair (its entry of `items`, the rope position at which its new tokens start)."""
        positions = cache.positions if rows is None else cache.positions[rows.cpu()]
        if len(items) != len(positions):
            raise ValueError(f"{len(items)} items for {len(positions)} rows")
        return list(zip(items, positions.tolist()))

    def _attend(
        self,
        cache: KVCache,
        rows: Tensor | None,
        lengths: Int[Tensor, "R"],
        new: list[int],
        pack: Pack,
        write: bool,
        causal: bool | None,
    ) -> Attend:
        """Return the attention function for new blocks of tokens. If every context gets one block, `causal` says
        whether the blocks are texts. If a context gets several blocks, `causal` is None; then only SDPA can be used."""
        keys = cache.keys[0]
        if causal is not None and self.attention.in_caches(keys.device, keys.dtype) is Backend.FLASH:
            kernel = flash_kernel()
            assert kernel is not None, "the backend was chosen because the kernel is there"
            return FlashAttention(kernel, cache, rows, lengths, new, pack, write, causal)
        return CachedAttention(cache, rows, lengths, new, pack.visibility.dense(), pack, write)

    def _extend(self, cache: KVCache, rows: Tensor | None, builder: PackBuilder, causal: bool | None = None) -> None:
        which = slice(None) if rows is None else rows.cpu()
        next_positions = builder.next_positions()
        pack = builder.build().to(cache.keys[0].device)
        attend = self._attend(cache, rows, cache.lengths[which], pack.lengths, pack, write=True, causal=causal)
        self.trunk(pack, attend, (pack.logit_index, pack.velocity_index))  # only keys and values are needed, no output
        cache.lengths[which] += torch.tensor(pack.lengths)
        cache.positions[which] = torch.tensor(next_positions)
