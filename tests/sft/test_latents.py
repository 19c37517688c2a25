"""Latents on the disk: the same bits, for the same autoencoder only, and never an error of their own."""

import copy
import json

import pytest
import torch

from sft.dataset import DataError
from sft.latents import LatentStore, Moments
from sft.rows import parse_row
from tests.sft.material import assistant, encoder, image

KEY = bytes(range(16))
GRID = (2, 3)
MOMENTS = Moments(torch.randn(6, 4), torch.randn(6, 4), GRID)


def row(*sizes):
    return parse_row(json.dumps([assistant(*(image(n, size, need_loss=True) for n, size in enumerate(sizes)))]))


@pytest.fixture
def store(world, tmp_path):
    return LatentStore(tmp_path / "latents", world.vae)


def test_an_image_is_encoded_once_over_processes_and_has_the_same_bits(world, store, monkeypatch):
    images = row((16, 16), (16, 32), (16, 16))
    plain, first = encoder(world).encode([images])[0], encoder(world, store=store).encode([images])[0]
    with monkeypatch.context() as patched:
        patched.setattr(world.vae, "encode", lambda batch: pytest.fail("encoded"))
        again = encoder(world, store=store).encode([images])[0]
    for one, two, three in zip(plain, first, again, strict=True):
        assert torch.equal(one.mean, two.mean) and torch.equal(one.mean, three.mean)
        assert torch.equal(one.logvar, three.logvar) and one.grid == three.grid


def test_another_autoencoder_or_another_size_finds_nothing(world, store, tmp_path):
    store.write(KEY, MOMENTS)
    assert torch.equal(store.read(KEY, GRID).mean, MOMENTS.mean)
    assert store.read(KEY, (3, 2)) is None and store.read(KEY[::-1], GRID) is None
    other = copy.deepcopy(world.vae)
    with torch.no_grad():
        next(other.parameters()).flatten()[0] += 1e-3
    assert LatentStore(tmp_path / "latents", other).read(KEY, GRID) is None
    other.load_state_dict(world.vae.state_dict())
    assert LatentStore(tmp_path / "latents", other).read(KEY, GRID) is not None


def test_a_damaged_file_is_written_again(store):
    store.write(KEY, MOMENTS)
    (path,) = store.folder.rglob("*.safetensors")
    whole = path.read_bytes()
    for damaged in (b"", b"x" * 50, whole[:-1]):
        path.write_bytes(damaged)
        assert store.read(KEY, GRID) is None
    store.write(KEY, MOMENTS)
    assert store.read(KEY, GRID) is not None and [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_is_named(world, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="sft.latents: cannot write .*file"):
        LatentStore(tmp_path / "file", world.vae).write(KEY, MOMENTS)
