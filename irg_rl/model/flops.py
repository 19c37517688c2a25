"""Counts the floating-point operations of the model from the sizes of its matrices.

A matrix takes two operations (multiply and add) per weight and token. For each (query, key) pair and each dimension of
a head, attention takes four operations: two for the scores and two for the weighted sum of the values. Norms,
activations and position tables are left out: they take less than one percent at any size for which planning is useful.
"""

from dataclasses import dataclass

from irg_rl.model.attention import similar
from irg_rl.model.branched import alike
from irg_rl.model.pack import Pack
from irg_rl.model.unified import UnifiedModel


@dataclass(frozen=True)
class Workload:
    """The amount of work that a forward pass gives to the model: numbers of tokens and of (query, key) pairs."""

    und: int = 0  # tokens of the und expert
    gen: int = 0  # tokens of the gen expert
    patches: int = 0  # ViT patches, also counted in `und`
    logits: int = 0  # tokens whose logits are computed
    pairs: int = 0  # (query, key) pairs of attention, also masked pairs if they are computed
    patch_pairs: int = 0  # (query, key) pairs inside the vision tower

    def __add__(self, other: "Workload") -> "Workload":
        return Workload(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))

    def __mul__(self, times: int) -> "Workload":
        return Workload(*(value * times for value in vars(self).values()))

    @classmethod
    def of(cls, pack: Pack) -> "Workload":
        """Return the workload of one forward pass over the pack (several token sequences, called rows).

        A row may have branches, that is several continuations of one prefix. If no row has branches, rows of similar
        length are padded to one length, and all (query, key) pairs of the padded rows are counted. Otherwise every
        branch counts as a row of its own: its queries are its own tokens, and its keys include the prefix.
        """
        if pack.views:
            batches = [(len(b), max(len(v.own) for v in b), max(v.keys for v in b)) for b in alike(pack.views)]
        else:
            longest = [(len(rows), max(pack.lengths[row] for row in rows)) for rows in similar(pack.lengths)]
            batches = [(rows, length, length) for rows, length in longest]
        return cls(
            und=len(pack.text_ids) + len(pack.patches),
            gen=len(pack.latents),
            patches=len(pack.patches),
            logits=len(pack.logit_index),
            pairs=sum(rows * queries * keys for rows, queries, keys in batches),
            patch_pairs=len(pack.patch_lengths) * max(pack.patch_lengths, default=0) ** 2,
        )


@dataclass(frozen=True)
class Matrices:
    """The sizes of the model's matrices. For each kind of token, it has the number of weights by which one such token
    is multiplied."""

    und: int
    gen: int
    patch: int
    logit: int
    pair: int  # numbers per token in all query heads of all layers
    patch_pair: int

    @classmethod
    def of(cls, model: UnifiedModel) -> "Matrices":
        und = gen = patch = 0
        for name, parameter in model.named_parameters():
            if parameter.ndim != 2 or "position_embedding" in name or "embed_tokens" in name:
                continue
            if name.startswith(("vit_model.", "connector.")):
                patch += parameter.numel()
            elif "_moe_gen" in name or name.startswith(("vae2llm.", "llm2vae.")):
                gen += parameter.numel()
            elif ".layers." in name:
                und += parameter.numel()
        llm, vit = model.config.llm, model.config.vit
        return cls(
            und, gen, patch, model.language_model.lm_head.weight.numel(),
            llm.num_hidden_layers * llm.hidden_size, vit.num_hidden_layers * vit.hidden_size,
        )  # fmt: skip

    def flops(self, load: Workload) -> int:
        """Return the number of floating-point operations of one forward pass with this workload. A backward pass takes
        twice as many."""
        through = load.und * self.und + load.gen * self.gen + load.patches * self.patch + load.logits * self.logit
        return 2 * through + 4 * (load.pairs * self.pair + load.patch_pairs * self.patch_pair)
