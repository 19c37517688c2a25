"""Which kernels a setting stands for, and what is said where they are not there."""

import pytest
import torch

from irg_rl.errors import InputError
from irg_rl.model import attention
from irg_rl.model.attention import Backend
from irg_rl.model.folder import load_folder, save_folder

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(params=[True, False])
def installed(request, monkeypatch):
    """Whether flash-attn is."""
    monkeypatch.setattr(attention, "flash_kernel", lambda: print if request.param else None)
    return request.param


def test_auto_takes_the_best_kernels_of_the_device_that_are_there(installed):
    auto = Backend.AUTO
    assert auto.in_packs(GPU, 128) is Backend.FLEX
    assert auto.in_packs(GPU, 8) is auto.in_packs(CPU, 128) is Backend.SDPA
    assert auto.in_caches(GPU, torch.bfloat16) is (Backend.FLASH if installed else Backend.SDPA)
    assert auto.in_caches(GPU, torch.float32) is auto.in_caches(CPU, torch.bfloat16) is Backend.SDPA
    auto.require(CPU, torch.float32)


@pytest.mark.parametrize(("setting", "packs", "caches"), [
    ("sdpa", Backend.SDPA, Backend.SDPA), ("flex", Backend.FLEX, Backend.SDPA), ("flash", Backend.FLEX, Backend.FLASH),
])  # fmt: skip
def test_what_is_asked_for_by_name_is_taken(setting, packs, caches):
    chosen = Backend(setting)
    assert chosen.in_packs(GPU, 128) is packs and chosen.in_caches(GPU, torch.bfloat16) is caches


@pytest.mark.parametrize(("setting", "device", "dtype", "says"), [
    ("flex", CPU, torch.float32, "attention flex needs a GPU, and the model is on cpu"),
    ("flash", CPU, torch.bfloat16, "attention flash needs a GPU"),
    ("flash", GPU, torch.float32, "attention flash computes in bf16, not in torch.float32"),
    ("flash", GPU, torch.bfloat16, r"needs the package flash-attn: pip install 'irg-rl\[gpu\]'"),
])  # fmt: skip
def test_what_is_asked_for_and_not_there_is_an_error(monkeypatch, setting, device, dtype, says):
    monkeypatch.setattr(attention, "flash_kernel", lambda: None)
    with pytest.raises(InputError, match=says):
        Backend(setting).require(device, dtype)


def test_a_folder_is_loaded_with_the_kernels_asked_for_or_not_at_all(bagel, tmp_path):
    save_folder(bagel.model, bagel.autoencoder, bagel.tokenizer, tmp_path / "m")
    assert load_folder(tmp_path / "m").model.attention is Backend.AUTO
    assert load_folder(tmp_path / "m", attention="sdpa").model.attention is Backend.SDPA
    with pytest.raises(InputError, match="attention flex needs a GPU"):
        load_folder(tmp_path / "m", attention="flex")
