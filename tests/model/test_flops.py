"""Operations counted from matrices are those that PyTorch counts."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from irg_rl.model.flops import Matrices, Workload
from irg_rl.model.unified import UnifiedModel
from tests.model.sizes import SPECIAL, tiny_config
from tests.model.test_footprint import pack


@pytest.mark.parametrize("sizes", [{}, {"intermediate_size": 192}, {"num_hidden_layers": 9}, {"vocab_size": 640}])
def test_the_operations_of_a_packed_forward(sizes):
    model, given = UnifiedModel(tiny_config(**({"num_hidden_layers": 12} | sizes)), SPECIAL), pack(4)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(given)
    counted = Matrices.of(model).flops(Workload.of(given))
    # the last layer leaves out the tokens that no loss asks for, which the count does not
    assert counter.get_total_flops() < counted < 1.06 * counter.get_total_flops()


def test_loads_add_up():
    load = Workload(und=1, gen=2, patches=3, logits=4, pairs=5, patch_pairs=6)
    assert load + load == load * 2 == Workload(2, 4, 6, 8, 10, 12)
