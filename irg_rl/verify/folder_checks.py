"""Checks of the files of a model folder: names and shapes of the weights, the tokenizer, and the weights themselves."""

import unicodedata
from pathlib import Path
from typing import Any

import torch

from irg_rl.errors import InputError
from irg_rl.model.files import read_shapes, weight_files
from irg_rl.model.folder import AUTOENCODER, check_folder
from irg_rl.model.tokenizer import load_tokenizer
from irg_rl.text_in import read_json
from irg_rl.verify.bench import Workbench
from irg_rl.verify.finding import Finding
from irg_rl.verify.known import KNOWN_IDS, SPECIAL_IDS
from irg_rl.verify.tensors import check_tensors

TEXTS = (
    "Hello, world!", "A red bench left of a blue car; 3 birds.", "naïve café, cafe\u0301", "一只红色的猫坐在桌子上。",
    "def f(x):\n    return x ** 2\n", "  two  spaces, a\ttab", "🙂 smile", "<|im_end|> is text here",
)  # fmt: skip
"""Texts that a tokenizer must give back as they are: several languages, white space, code, and a special token's
name."""


def keys_and_shapes(bench: Workbench, finding: Finding) -> None:
    """Compare the names and shapes of all weights with the JSON files of the folder."""
    checked = bench.checked or check_folder(bench.folder)  # a broken folder raises here, which fails this check
    files = weight_files(bench.folder)
    shapes = {name: shape for file in files for name, shape in read_shapes(file).items()}
    autoencoder = read_shapes(bench.folder / AUTOENCODER)
    parameters = sum(p.numel() for p in checked.model.parameters())
    finding.require("names and shapes", f"{len(shapes)} + {len(autoencoder)} tensors, as the JSON files say",
                    "every weight is there, and none else", True)  # fmt: skip
    config = checked.model.config
    known = "the same as the released BAGEL-7B-MoT" if bench.is_known else "other than the released BAGEL-7B-MoT"
    finding.facts |= {
        "files": ", ".join([*(file.name for file in files), AUTOENCODER]),
        "parameters": f"{parameters / 1e6:,.1f} million, {config.llm.num_hidden_layers} layers",
        "sizes": known,
        "largest image": f"{config.max_latent_size * config.pixels_per_token} pixels per side",
    }


def tokenizer(bench: Workbench, finding: Finding) -> None:
    """Check the tokenizer by itself, against the known ids of Qwen2.5, and against the reference."""
    found = load_tokenizer(bench.folder)
    finding.facts["ids"] = str(len(found))
    wrong = [text for text in TEXTS if found.decode(found.encode(text)) != unicodedata.normalize("NFC", text)]
    finding.require("texts come back", f"{len(TEXTS) - len(wrong)} of {len(TEXTS)}", "all", not wrong)
    special = set(vars(found.special).values())
    crossed = [text for text in TEXTS if special & set(found.encode(text))]
    finding.require("no text ends itself", f"{len(crossed)} texts with boundary tokens", "none", not crossed)
    _same_files(bench.folder, finding)
    if bench.checked is not None and bench.is_known:
        ids = vars(found.special)
        finding.require("boundary tokens", ids, str(SPECIAL_IDS), ids == SPECIAL_IDS)
        for text, expected in KNOWN_IDS.items():
            finding.require(f"ids of {text!r}", found.encode(text), str(expected), found.encode(text) == expected)
    mine = {text: found.encode(text) for text in TEXTS}
    bench.kept.ids = mine
    if bench.reference is not None and bench.reference.ids:
        other = [text for text, ids in mine.items() if bench.reference.ids.get(text) != ids]
        what = "ids are those of the reference"
        finding.require(what, f"{len(other)} of {len(mine)} texts differ", "none", not other)


def _same_files(folder: Path, finding: Finding) -> None:
    """Require that tokenizer.json, which is read, and vocab.json have one vocabulary. They differ if one file was
    copied from another model."""
    whole, plain = folder / "tokenizer.json", folder / "vocab.json"
    if not (whole.is_file() and plain.is_file()):
        finding.facts["files"] = "only one of tokenizer.json and vocab.json"
        return
    inside, beside = _vocabulary(whole), read_json(plain)
    if not isinstance(beside, dict):
        raise InputError(f"{plain} holds no JSON object: copy it again")
    differ = sum(inside.get(word) != beside.get(word) for word in inside.keys() | beside.keys())
    finding.require("tokenizer.json and vocab.json agree", f"{differ} entries differ", "none", not differ)


def _vocabulary(path: Path) -> dict[str, Any]:
    content = read_json(path)
    model = content.get("model") if isinstance(content, dict) else None
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict):
        raise InputError(f"{path} has no model.vocab: copy it again")
    return vocabulary


def weights(bench: Workbench, finding: Finding) -> None:
    """Read every weight once: is it finite, is it there, and is it the one it should be?"""
    size = bench.checked.model.config.llm.hidden_size if bench.checked is not None else None
    with torch.no_grad():
        bench.kept.tensors = check_tensors(bench.folder, size, bench.reference, finding)
