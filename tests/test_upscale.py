"""The benchmarks' larger model says what the small one says."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.support.upscale import SHAPES, Shape, upscale
from tests.conftest import MODEL

TEXT = "Does metformin lower the risk of cancer? Patients with type 2 diabetes were followed for ten years, and"


@pytest.mark.parametrize(
    "shape",
    [
        Shape(hidden=640, intermediate=1600, layers=31, heads=16, kv_heads=4, head=128),
        Shape(hidden=576, intermediate=1536, layers=30, heads=9, kv_heads=3, head=64),
    ],
    ids=["larger", "the same"],
)
def test_the_logits_are_those_of_the_small_model(tmp_path: Path, shape: Shape) -> None:
    num_parameters = upscale(MODEL, tmp_path, shape)
    ids = AutoTokenizer.from_pretrained(MODEL)(TEXT, return_tensors="pt")["input_ids"]
    small, large = (AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (MODEL, tmp_path))
    assert sum(parameter.numel() for parameter in large.parameters()) == num_parameters
    with torch.inference_mode():
        expected, logits = small(ids).logits[0], large(ids).logits[0]
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))
    assert (logits - expected).abs().max() < 0.5  # of values between -10 and 30, in weights of 8 bits
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template


def test_shapes_have_the_sizes_of_their_names() -> None:
    for name, shape in SHAPES.items():
        matrices = 2 * shape.heads * shape.head + 2 * shape.kv_heads * shape.head + 3 * shape.intermediate
        total = shape.layers * shape.hidden * matrices + 2 * 49_152 * shape.hidden
        assert total / 1e9 == pytest.approx(float(name.removesuffix("b")), rel=0.2)


def test_a_shape_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not fit into the shape: layers"):
        upscale(MODEL, tmp_path, Shape(hidden=640, intermediate=1600, layers=20, heads=16, kv_heads=4, head=128))
    with pytest.raises(ValueError, match="heads for each KV head"):
        upscale(MODEL, tmp_path, Shape(hidden=640, intermediate=1600, layers=31, heads=16, kv_heads=8, head=128))
