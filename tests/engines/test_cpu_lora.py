"""LoRA's operators on CPUs, beside a product per token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kailin_ray.engines.cpu_lora import expand, expand_slice, shrink

ADAPTERS, RANK, IN, OUT = 3, 4, 6, 5
INDICES = st.lists(st.integers(-1, ADAPTERS - 1), min_size=1, max_size=6)


def made(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(INDICES)
def test_a_token_is_multiplied_by_its_own_adapter_and_without_one_by_none(own: list[int]) -> None:
    x, a, b = made(1, len(own), IN), made(2, ADAPTERS, 1, RANK, IN), made(3, ADAPTERS, 1, OUT, RANK)
    inner, output = torch.full((len(own), RANK), 7.0), made(4, len(own), OUT)
    rows = zip(x, output, own, strict=True)
    expected = torch.stack([y if i < 0 else y + b[i, 0] @ (a[i, 0] @ v) * 2 for v, y, i in rows])
    shrink(x, a, inner, torch.tensor(own), 2.0)
    expand(inner, b, output, torch.tensor(own))
    assert output == pytest.approx(expected.numpy(), abs=1e-4)


def test_a_slice_is_added_to_its_own_columns_alone() -> None:
    inner, b, before = made(1, 2, RANK), made(2, ADAPTERS, 1, 2, RANK), made(3, 2, OUT)
    output = before.clone()
    expand_slice(inner, b, output, torch.tensor([2, -1]), 3, 2)
    assert torch.equal(output[1], before[1])
    assert torch.equal(output[0, :3], before[0, :3])
    assert output[0, 3:] == pytest.approx((before[0, 3:] + b[2, 0] @ inner[0]).numpy(), abs=1e-5)
    expand_slice(inner, b, output, torch.tensor([2, -1]), 3, 2, add_inputs=False)
    assert output[:, 3:] == pytest.approx(torch.stack([b[2, 0] @ inner[0], torch.zeros(2)]).numpy(), abs=1e-5)
