"""The Qwen2 tokenizer: byte-level BPE on text in Unicode form NFC. Four of its special tokens mark the begin and end of
texts and images.

Encoding a text never gives special tokens: model/layout.py and model/pack.py add them later. If a text contains the
characters `<|im_end|>`, they are encoded as ordinary characters, so no prompt can end its own text block.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from irg_rl.errors import InputError
from irg_rl.model.pack import SpecialIds

BOS, EOS, SOI, EOI = "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"
BROKEN = "\ufffd"  # what `decode` gives for bytes that make no whole character
_PAD = "<|endoftext|>"
_SPECIAL_TOKENS = (
    _PAD, BOS, EOS, "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>", "<|quad_start|>",
    "<|quad_end|>", SOI, EOI, "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip


class TextTokenizer:
    """Converts text to token ids and back. `special` holds the ids of the four boundary tokens: begin and end of a
    text, begin and end of an image."""

    def __init__(self, qwen: Qwen2Tokenizer, source: str) -> None:
        self._qwen = qwen
        self._pieces: dict[int, str] = {}  # token -> its characters, as far as they were asked for
        known = qwen.get_added_vocab()
        missing = [token for token in (BOS, EOS, SOI, EOI) if token not in known]
        if missing:
            raise InputError(f"the tokenizer in {source} has no special token {', '.join(missing)}")
        self.special = SpecialIds(known[BOS], known[EOS], known[SOI], known[EOI])

    def __len__(self) -> int:
        return len(self._qwen)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without boundary tokens. The names of special tokens inside the text are
        encoded as ordinary characters."""
        return self._qwen.encode(text, add_special_tokens=False, split_special_tokens=True)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        text = self._qwen.decode(list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)  # one text was given, not a list of texts
        return text

    def ends(self, ids: Sequence[int]) -> list[int]:
        """Return for each token where it ends in `decode(ids)`: the number of characters up to its end. A character
        whose bytes belong to several tokens counts for the last of them."""
        ends, written, begin = [], 0, 0
        for place, one in enumerate(ids):
            piece = self._piece(one) if begin == place else self.decode(ids[begin : place + 1])
            if not piece.endswith(BROKEN):  # else the bytes of a character go on in the next token
                written, begin = written + len(piece), place + 1
            ends.append(written)
        return ends

    def _piece(self, one: int) -> str:
        if one not in self._pieces:
            self._pieces[one] = self.decode([one])
        return self._pieces[one]

    def save(self, folder: Path) -> None:
        """Write the tokenizer into a folder, as tokenizer.json, tokenizer_config.json, vocab.json and merges.txt."""
        self._qwen.save_pretrained(folder)
        model = json.loads(self._qwen.backend_tokenizer.to_str())["model"]
        vocab = {token: index for token, index in sorted(model["vocab"].items(), key=lambda item: item[1])}
        (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")


def load_tokenizer(folder: Path) -> TextTokenizer:
    """Load the tokenizer of a model folder. Raises InputError if the tokenizer is missing, cannot be read or has no
    boundary tokens."""
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
        raise InputError(f"{folder} holds no tokenizer: tokenizer.json, or vocab.json with merges.txt, is needed")
    try:
        return TextTokenizer(Qwen2Tokenizer.from_pretrained(folder), str(folder))
    except InputError:
        raise
    except Exception as error:  # tokenizers raises plain Exception on a broken file
        raise InputError(f"{folder}: its tokenizer cannot be read: {type(error).__name__}: {error!s:.300}") from error


def train_tokenizer(corpus: Iterable[str], vocab_size: int, folder: Path) -> TextTokenizer:
    """Train a tokenizer of the same form as Qwen2's tokenizer on the texts in `corpus`. Write it into `folder` and
    return it.

    The tokenizer has at most `vocab_size` ids: first 256 bytes, then the learned merges, then 14 special tokens. The
    same corpus always gives the same files. Raises InputError if `vocab_size` is too small.
    """
    least = 256 + len(_SPECIAL_TOKENS)
    if vocab_size < least:
        raise InputError(
            f"vocab_size {vocab_size} is below {least}: 256 bytes and {len(_SPECIAL_TOKENS)} special tokens"
        )
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(_SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    bpe.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL_TOKENS])
    absent: Any = {"bos_token": None, "unk_token": None}  # None as released, though not annotated
    qwen = Qwen2Tokenizer(
        tokenizer_object=bpe, pad_token=_PAD, eos_token=EOS, extra_special_tokens=list(_SPECIAL_TOKENS[1:]), **absent
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = TextTokenizer(qwen, str(folder))
    tokenizer.save(folder)
    return load_tokenizer(folder)
