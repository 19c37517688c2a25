"""Attention for packs with branches. A pack has several token sequences, called rows, for one forward pass. A row has
branches if, for example, several samples continue one prefix. Attention is computed separately for each branch.

Suppose a row has a shared prefix of P tokens and K branches of S tokens each. Attention over the whole row would
compute (P + K S)^2 (query, key) pairs, and most of them are masked. Here the queries of a branch are compared only with
the keys of the prefix and of the same branch: P^2 + K S (P + S) pairs. For this, the keys and values of the prefix are
copied to each branch. Matrix products and norms still process every token once.

Letters: N tokens, R views in a batch, Q queries, K keys, h query heads, k key/value heads, d numbers per head. A view
is one branch with the tokens that it sees.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from irg_rl.model.attention import SIMILAR, ContextGrad, Move, additive, grouped_attention, stop
from irg_rl.model.layout import View
from irg_rl.model.pack import Pack


class _Spread(torch.autograd.Function):
    """Copies tokens to all branches that see them: the forward pass returns x[index], where a token may occur several
    times. The backward pass adds up the gradients of all copies.

    All positions below are positions in x[index]. `first` holds, for each token of x, its position in its own branch.
    `copies` holds the positions of its further copies, in other branches that see it. For each position in `copies`,
    `copied` holds the index in x of the token there. All other values of x[index] are padding and receive no gradient.
    """

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, first: Tensor, copies: Tensor, copied: Tensor) -> Tensor:
        ctx.save_for_backward(first, copies, copied)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (grad,) = grads
        first, copies, copied = ctx.saved_tensors
        total = grad.index_select(0, first)
        return total.index_add_(0, copied, grad.index_select(0, copies)), None, None, None, None


class _Collect(torch.autograd.Function):
    """Returns x[index], which reads the result of each token from the token's own branch. The backward pass sets the
    gradient of padding to 0. This is needed because queries in the padding see real keys."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, back: Tensor, padding: Tensor) -> Tensor:
        ctx.save_for_backward(back, padding)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        back, padding = ctx.saved_tensors
        return grads[0].index_select(0, back).index_fill_(0, padding, 0.0), None, None, None


class BranchedAttention:
    """Attention for a pack with branches. A row (token sequence) of the pack has branches if, for example, several
    samples continue one prefix. The transformer calls it as its `attend` function. `PackedAttention` computes the same
    result, but more slowly."""

    def __init__(self, pack: Pack, context_grad: ContextGrad | str = ContextGrad.FULL) -> None:
        device = pack.slot.device
        detached = ContextGrad(context_grad) is ContextGrad.DETACHED
        padded = pack.unslot.unflatten(0, (pack.rows, -1))
        self._shapes, self._masks, self._noise = [], [], []
        shape = (padded.shape[0], padded.shape[1])
        queries, keys = _Places(shape), _Places(shape)
        for batch in alike(pack.views):
            rows = np.array([view.row for view in batch])
            asking = _padded([np.asarray(view.own) for view in batch])
            answering = _padded([np.concatenate([view.context, np.asarray(view.own)]) for view in batch])
            queries.add(rows, asking, [0] * len(batch))
            keys.add(rows, answering, [len(view.context) for view in batch])
            self._shapes.append((len(batch), asking.shape[1], answering.shape[1]))
            row, query, key = (torch.tensor(part, device=device) for part in (rows, asking, answering))
            self._masks.append(additive(pack.visibility.between(row, query, key)))
            noise = pack.visibility.noise[row]
            inside = [noise.gather(1, pack.visibility.block[row].gather(1, part.clamp(min=0))) & (part >= 0)
                      for part in (query, key)] if detached else None  # fmt: skip
            self._noise.append(inside)
        flat = padded.flatten()
        self._ask, self._answer = (flat[torch.tensor(part.index(), device=device)] for part in (queries, keys))
        self._asked, self._first = (torch.tensor(p.first, device=device)[pack.slot] for p in (queries, keys))
        self._padding = torch.tensor(queries.padding(), device=device)
        self._copies = torch.tensor(keys.copies(), device=device)
        self._copied = flat[torch.tensor(keys.copied(), device=device)]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "N hd"]:
        heads = (k.shape[1], v.shape[1])
        asked = Move.apply(q, self._ask, self._asked)
        both = _Spread.apply(torch.cat([k, v], dim=1), self._answer, self._first, self._copies, self._copied)
        asked = asked.split([rows * queries for rows, queries, _ in self._shapes])
        both = both.split([rows * keys for rows, _, keys in self._shapes])
        mixed = []
        for (rows, _, _), q, kv, mask, noise in zip(self._shapes, asked, both, self._masks, self._noise):
            q = q.unflatten(0, (rows, -1)).transpose(1, 2)
            k, v = kv.unflatten(0, (rows, -1)).transpose(1, 2).split(heads, dim=1)
            mask = mask.to(q.dtype)
            seen = grouped_attention(q, k, v, mask)
            if noise is not None:
                inside, kept = (part[:, None, :, None] for part in noise)
                seen = torch.where(inside, grouped_attention(q, stop(k, ~kept), stop(v, ~kept), mask), seen)
            mixed.append(seen.transpose(1, 2).flatten(2).flatten(0, 1))
        return _Collect.apply(torch.cat(mixed), self._asked, self._ask, self._padding)


def alike(views: Sequence[View]) -> list[list[View]]:
    """Group the views into batches with similar numbers of queries and of keys, so that little padding is needed. A
    view is one branch (a continuation of a shared prefix) together with the tokens that it sees. Return the batches,
    the largest views first."""
    batches: list[list[View]] = []
    for view in sorted(views, key=lambda view: (-view.keys, -len(view.own))):
        longest = batches[-1][0] if batches else None
        if longest is None or not _similar(view, longest):
            batches.append([])
        batches[-1].append(view)
    return batches


def _similar(view: View, longest: View) -> bool:
    queries, most = sorted((len(view.own), len(longest.own)))
    return view.keys >= SIMILAR * longest.keys and queries >= SIMILAR * most


def _padded(tokens: Sequence[np.ndarray]) -> Int[np.ndarray, "R T"]:
    """Return a table with one line per view, which holds the token indices of the view. (A view is one branch together
    with the tokens that it sees.) Shorter lines end with -1 as padding."""
    table = np.full((len(tokens), max(map(len, tokens))), -1, dtype=np.int64)
    for row, own in zip(table, tokens):
        row[: len(own)] = own
    return table


class _Places:
    """The position of each token in one long list that joins the tokens of all views (a view is one branch together
    with the tokens that it sees). Tokens are numbered: row * L + index in the row, where L is the padded length of a
    row."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._length = shape[1]
        self._tokens: list[np.ndarray] = []
        self._context: list[np.ndarray] = []
        self._count = 0
        self.first = np.zeros(shape[0] * shape[1], dtype=np.int64)
        """For each token, its position in the list, in the view of its own branch."""

    def add(self, rows: Int[np.ndarray, "R"], table: Int[np.ndarray, "R T"], context: Sequence[int]) -> None:
        """Append several views, padded to one length, to the list. `table` holds the token indices of each view in its
        row, with -1 for padding. `rows` holds the row of each view. `context` says how many tokens at the start of each
        view belong to other branches."""
        tokens = np.where(table < 0, -1, table + rows[:, None] * self._length)
        column = np.arange(table.shape[1])
        seen = (column < np.array(context)[:, None]) & (table >= 0)
        own = (table >= 0) & ~seen
        place = self._count + np.arange(table.size).reshape(table.shape)
        self.first[tokens[own]] = place[own]
        self._tokens.append(tokens.reshape(-1))
        self._context.append(seen.reshape(-1))
        self._count += table.size

    def index(self) -> Int[np.ndarray, "M"]:
        """Return, for every position of the list, the number of the token there. At padding the number is 0."""
        return np.concatenate(self._tokens).clip(min=0)

    def padding(self) -> Int[np.ndarray, "E"]:
        return np.flatnonzero(np.concatenate(self._tokens) < 0)

    def copies(self) -> Int[np.ndarray, "C"]:
        """Return the positions of the list that hold copies. A copy is a token that is listed in the view of a branch
        but belongs to another branch."""
        return np.flatnonzero(np.concatenate(self._context))

    def copied(self) -> Int[np.ndarray, "C"]:
        """Return, for each position that `copies()` returns, the number of the token there."""
        return np.concatenate(self._tokens)[self.copies()]
