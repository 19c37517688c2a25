"""Loads, saves and uses a two-tower model with open_clip: the common part of CLIP and HPS.

A model is either a folder (`open_clip_config.json` + `open_clip_model.safetensors`, the local-dir layout of open_clip,
which the trainers here write), or a checkpoint file together with the name of a built-in architecture of open_clip.
Checkpoints are read with safetensors or `torch.load(weights_only=True)`: nothing is unpickled.

Shape letters: B images (or texts), D embedding width.
"""

import gzip
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # what torch.load(weights_only=True) raises on anything but tensors
from typing import Any, Literal, cast

import numpy as np
import open_clip
import torch
from jaxtyping import Float, Int
from open_clip.tokenizer import default_bpe
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image as PILImage
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from irg_rl.errors import InputError
from irg_rl.text_in import read_json
from rewards.base import Image, ScorerUnavailable

CONFIG, WEIGHTS, MERGES = "open_clip_config.json", "open_clip_model.safetensors", "bpe_merges.txt.gz"
OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
UNREADABLE = (OSError, KeyError, RuntimeError, ValueError, SafetensorError, UnpicklingError, EOFError)

Preprocess = Callable[[Image], Float[Tensor, "3 S S"]]
Tokenizer = Callable[..., Int[Tensor, "B T"]]

# The architecture trained on the spot, about 0.6 M parameters; `vocab_size` is that of its tokenizer. Three layers per
# tower learn no faster per step and cost half as much again.
TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 24, "layers": 2, "width": 96, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 48, "width": 96, "heads": 3, "layers": 2},
}
Precision = Literal["fp32", "bf16", "fp16", "pure_bf16", "pure_fp16"]
"""What the towers run in, by open_clip's names. It takes any other word for fp32."""
TEXT_CHUNK = 16  # texts of similar length encoded together


@dataclass
class TwoTower:
    """A model in eval mode with its tokenizer; `config` is open_clip's `model_cfg`."""

    model: open_clip.CLIP
    tokenizer: Tokenizer
    config: dict
    size: int  # side of the square the vision tower takes, pixels
    dtype: torch.dtype = torch.float32  # of the pixels it takes; the logit scale may have another

    @property
    def context(self) -> int:
        """Tokens of a text that are read, the two around it included."""
        return self.config["text_cfg"].get("context_length", 77)

    def is_cut(self, text: str) -> bool:
        """Whether the text is longer than what is read of it."""
        read = self.tokenizer([text], self.context)[0]
        return not torch.equal(self.tokenizer([text], self.context + 1)[0][: self.context], read)

    @torch.no_grad()
    def cosine(self, images: Float[Tensor, "B 3 S S"], texts: list[str]) -> Float[Tensor, "B"]:
        """Cosine of the L2-normalised embeddings of image i and text i, in [-1, 1], without the logit scale.

        The product is computed in fp32: near .3 a bf16 step is 2e-3, which is about the spread within a group.
        """
        device = self.model.logit_scale.device
        image = self.model.encode_image(images.to(device, self.dtype)).float()
        text = self.model.encode_text(self.tokenizer(texts).to(device)).float()
        return torch.cosine_similarity(image, text, dim=-1).cpu()


def load(path: str | Path, architecture: str = "", precision: Precision = "fp32", device: str = "cpu") -> TwoTower:
    """Open a model folder, or a checkpoint file of the built-in `architecture` ("ViT-L-14", "ViT-H-14", ...).

    Raises ScorerUnavailable if anything is missing or unreadable; never downloads."""
    path = Path(path)
    if path.is_dir():
        name, weights = f"local-dir:{path}", None
        missing = [f for f in (CONFIG, WEIGHTS) if not (path / f).is_file()]
        if missing:
            raise ScorerUnavailable(f"{path} lacks {' and '.join(missing)}: train it again or give its folder")
        config = _model_config(path / CONFIG)
    elif path.is_file():
        name, weights = architecture, str(path)
        config = open_clip.get_model_config(architecture) if architecture else None
        if config is None:
            raise ScorerUnavailable(
                f"{path} is a checkpoint file, so `model` must name its open_clip architecture "
                f"(ViT-L-14, ViT-H-14, ...); it is {architecture!r}"
            )
    else:
        raise ScorerUnavailable(f"no CLIP model at {path}: give a folder with {CONFIG} or a checkpoint file")
    try:
        model = open_clip.create_model(name, pretrained=weights, precision=precision, device=device)
    except UNREADABLE as error:
        kind = architecture or "an open_clip folder"
        raise ScorerUnavailable(f"{path} cannot be loaded as {kind}: {error}") from error
    model.eval().requires_grad_(False)
    dtype = open_clip.get_input_dtype(precision) or torch.float32
    tokenizer = make_tokenizer(path, config) if path.is_dir() else open_clip.get_tokenizer(name)
    # the other class of open_clip, CustomTextCLIP, has the same methods
    return TwoTower(cast(open_clip.CLIP, model), tokenizer, config, config["vision_cfg"]["image_size"], dtype)


def _model_config(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
        config = content["model_cfg"]
        config["vision_cfg"]["image_size"], config["text_cfg"]
    except (InputError, LookupError, TypeError) as error:
        raise ScorerUnavailable(f"{path} is no configuration of a CLIP: {error}") from error
    return config


def parameter_count(architecture: str) -> int | None:
    """Number of parameters of a built-in architecture, without creating its tensors. None if open_clip has no such
    CLIP."""
    config = open_clip.get_model_config(architecture)
    if config is None or set(config) - {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}:
        return None
    with torch.device("meta"):
        model = open_clip.CLIP(**config)
    return sum(parameter.numel() for parameter in model.parameters())


def create_tiny(folder: str | Path, words: Iterable[str], seed: int) -> TwoTower:
    """A new tiny model. Its tokenizer, stored in `folder`, knows `words` and spells out all others.

    Equal seeds and words give equal weights. A vocabulary of 49,408 tokens would spend half the time on unused rows.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_merges(folder / MERGES, words)
    tokenizer = open_clip.SimpleTokenizer(str(folder / MERGES), context_length=TINY["text_cfg"]["context_length"])
    config = TINY | {"text_cfg": TINY["text_cfg"] | {"vocab_size": tokenizer.vocab_size}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config, output_dict=True)
    return TwoTower(model, tokenizer, config, config["vision_cfg"]["image_size"])


def write_merges(path: Path, words: Iterable[str]) -> None:
    """Write the merges of CLIP that can take part in one of `words`. These words are then segmented as by CLIP."""
    spelled = [word.lower() + "</w>" for word in words]
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        header, *lines = file.read().split("\n")
    kept = [line for line in lines if line and any("".join(line.split()) in word for word in spelled)]
    text = "\n".join([header, *kept])
    path.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))


def make_tokenizer(folder: Path, config: dict) -> Tokenizer:
    """The tokenizer in the folder if there is one, else the one that its configuration names."""
    if (folder / MERGES).is_file():
        return open_clip.SimpleTokenizer(str(folder / MERGES), context_length=config["text_cfg"]["context_length"])
    return open_clip.get_tokenizer(f"local-dir:{folder}")


def save(folder: str | Path, tower: TwoTower, preprocess: dict | None = None) -> None:
    """Write weights and configuration into a folder that already has the tokenizer. The configuration is written last:
    a folder with a configuration is complete."""
    folder = Path(folder)
    (folder / CONFIG).unlink(missing_ok=True)
    save_file({k: v.contiguous() for k, v in tower.model.state_dict().items()}, folder / WEIGHTS)
    config = {"model_cfg": tower.config, "preprocess_cfg": preprocess or {}}
    part = folder / (CONFIG + ".part")
    part.write_text(json.dumps(config, indent=2) + "\n")
    part.rename(folder / CONFIG)


def encode_text(model: open_clip.CLIP, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """`model.encode_text(tokens, normalize=True)` without the padding, for training. Nearly three times as fast here.

    The mask is causal and the embedding is taken at the closing token (the largest id), so nothing after it matters.
    Texts are sorted by length and cut, `TEXT_CHUNK` at a time, to the longest of their chunk.
    """
    tower: Any = model  # open_clip does not declare the parts of its models
    lengths = tokens.argmax(dim=-1) + 1
    order = lengths.argsort(stable=True)
    features = []
    for chunk in order.split(TEXT_CHUNK):
        length = int(lengths[chunk].max())
        x = tower.token_embedding(tokens[chunk, :length]) + tower.positional_embedding[:length]
        x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask[:length, :length]))
        features.append(x[torch.arange(len(chunk)), lengths[chunk] - 1] @ tower.text_projection)
    return normalize(torch.cat(features)[order.argsort()], dim=-1)


def clip_preprocess(size: int) -> Preprocess:
    """open_clip's evaluation transform: shortest side to `size` (bicubic, on bytes), centre crop, normalise."""
    transform = cast(Callable[[PILImage.Image], Tensor], image_transform_v2(PreprocessCfg(size=size), is_train=False))
    return lambda image: transform(PILImage.fromarray(np.ascontiguousarray(image)))
