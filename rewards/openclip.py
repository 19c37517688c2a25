"""Load, save and use CLIP models with the library open_clip. A CLIP model has two encoders: an image tower and a text
tower. The scorers CLIP and HPS share this code.

A model is stored in one of two ways. It can be a folder with `open_clip_config.json` and `open_clip_model.safetensors`
(open_clip calls this layout local-dir; rewards/training.py writes such folders). Or it can be a checkpoint file
together with the name of a built-in architecture of open_clip. Checkpoints are read with safetensors or
`torch.load(weights_only=True)`, so nothing is unpickled.

Letters in shapes: B images (or texts), D width of the embedding.
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

# The architecture of the tiny models that a run trains itself, with about 0.6 M parameters. `vocab_size` comes from the
# tokenizer. With three layers per tower, the model learns no faster per step, and a step costs 1.5 times as much.
TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 24, "layers": 2, "width": 96, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 48, "width": 96, "heads": 3, "layers": 2},
}
Precision = Literal["fp32", "bf16", "fp16", "pure_bf16", "pure_fp16"]
"""Number format in which the image encoder and the text encoder run, by the names of open_clip. Only these names are
allowed, because open_clip would silently use fp32 for any other word."""
TEXT_CHUNK = 16  # number of texts of similar length that are encoded together


@dataclass
class TwoTower:
    """A CLIP model (an image encoder and a text encoder, called towers) in eval mode, with its tokenizer. `config` is
    the `model_cfg` of open_clip: a dict with the sizes of the model."""

    model: open_clip.CLIP
    tokenizer: Tokenizer
    config: dict
    size: int  # side of the square image for the vision tower, in pixels
    dtype: torch.dtype = torch.float32  # of the pixels for the vision tower; the logit scale may have another

    @property
    def context(self) -> int:
        """Return the largest number of tokens of a text that the model reads. The start token and the end token are
        counted."""
        return self.config["text_cfg"].get("context_length", 77)

    def is_cut(self, text: str) -> bool:
        """Return whether the text has more tokens than the model reads, so that the end of the text is ignored."""
        read = self.tokenizer([text], self.context)[0]
        return not torch.equal(self.tokenizer([text], self.context + 1)[0][: self.context], read)

    @torch.no_grad()
    def cosine(self, images: Float[Tensor, "B 3 S S"], texts: list[str]) -> Float[Tensor, "B"]:
        """Return the cosine of the L2-normalised embeddings of image i and text i, in [-1, 1], without the logit scale.

        The product is computed in fp32, because bf16 is too coarse. Near .3, neighbouring bf16 numbers differ by 2e-3,
        and the scores of the images of one prompt differ by about as much.
        """
        device = self.model.logit_scale.device
        image = self.model.encode_image(images.to(device, self.dtype)).float()
        text = self.model.encode_text(self.tokenizer(texts).to(device)).float()
        return torch.cosine_similarity(image, text, dim=-1).cpu()


def load(path: str | Path, architecture: str = "", precision: Precision = "fp32", device: str = "cpu") -> TwoTower:
    """Load a CLIP model and return it with its tokenizer. `path` is a model folder, or a checkpoint file of the
    built-in `architecture` ("ViT-L-14", "ViT-H-14", ...).

    Raises ScorerUnavailable if a file is missing or unreadable. Nothing is ever downloaded.
    """
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
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ScorerUnavailable(f"{path} should be on {device}, and no GPU is visible: set rewards.device=cpu")
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


def meta_model(architecture: str) -> open_clip.CLIP | None:
    """Return a model of a built-in architecture on the meta device, where its tensors have no contents. Returns None if
    open_clip has no such CLIP model."""
    config = open_clip.get_model_config(architecture)
    if config is None or set(config) - {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}:
        return None
    with torch.device("meta"):
        return open_clip.CLIP(**config)


def create_tiny(folder: str | Path, words: Iterable[str], seed: int) -> TwoTower:
    """Create a new tiny CLIP model, and return it. Its tokenizer is written into `folder`. The tokenizer knows the
    words in `words` and splits all other words into smaller pieces.

    Equal seeds and words give equal weights. CLIP's own tokenizer is larger: it has 49,408 tokens. With CLIP's
    tokenizer, half of the training time would be spent on the embeddings of tokens that never occur.
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
    """Write a smaller merge table of CLIP's tokenizer to `path`. It has only the merges (rules that join two pieces of
    a word) that can occur in `words`. A tokenizer with this table splits these words exactly as CLIP's tokenizer does.
    """
    spelled = [word.lower() + "</w>" for word in words]
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        header, *lines = file.read().split("\n")
    kept = [line for line in lines if line and any("".join(line.split()) in word for word in spelled)]
    text = "\n".join([header, *kept])
    path.write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))


def make_tokenizer(folder: Path, config: dict) -> Tokenizer:
    """Return the tokenizer that is stored in the folder. If the folder has no tokenizer, return the tokenizer that the
    folder's configuration names."""
    if (folder / MERGES).is_file():
        return open_clip.SimpleTokenizer(str(folder / MERGES), context_length=config["text_cfg"]["context_length"])
    return open_clip.get_tokenizer(f"local-dir:{folder}")


def save(folder: str | Path, tower: TwoTower, preprocess: dict | None = None) -> None:
    """Write the weights and the configuration of `tower` into a folder that already has its tokenizer. `preprocess` has
    open_clip's settings for preparing images, which become part of the configuration. None means that the configuration
    has no such settings. The configuration is written last, so a folder with a configuration is complete."""
    folder = Path(folder)
    (folder / CONFIG).unlink(missing_ok=True)
    save_file({k: v.contiguous() for k, v in tower.model.state_dict().items()}, folder / WEIGHTS)
    config = {"model_cfg": tower.config, "preprocess_cfg": preprocess or {}}
    part = folder / (CONFIG + ".part")
    part.write_text(json.dumps(config, indent=2) + "\n")
    part.rename(folder / CONFIG)


def encode_text(model: open_clip.CLIP, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """Return the normalised text embeddings, as `model.encode_text(tokens, normalize=True)` does, but skip the padding
    of the texts. This makes training nearly three times as fast.

    The attention mask is causal, and the embedding is taken at the closing token (the largest id). So the padding after
    the closing token does not change the result. Texts are sorted by length and processed in chunks of `TEXT_CHUNK`
    texts. The padding of a chunk ends where its longest text ends.
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
    """Return the evaluation transform of open_clip: resize the shortest side to `size` (bicubic, on bytes), crop the
    centre, and normalise."""
    transform = cast(Callable[[PILImage.Image], Tensor], image_transform_v2(PreprocessCfg(size=size), is_train=False))
    return lambda image: transform(PILImage.fromarray(np.ascontiguousarray(image)))
