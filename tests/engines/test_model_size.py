"""Sizes from config.json alone, against what publishers state and what files weigh."""

import json
from pathlib import Path
from typing import Any

import pytest

from kailin_ray.engines.interface import EngineSpec
from kailin_ray.engines.model_size import ModelSize, model_size
from tests.conftest import MODEL
from tests.support.model_configs import config_only

KIB = 1024


def size_of(path: str, **args: Any) -> ModelSize:
    return model_size(EngineSpec(path=path, revision=None, args=args, chat_template={}))


def test_the_small_model_weighs_what_its_file_does() -> None:
    size = size_of(str(MODEL))
    assert size.num_parameters == 134_515_008
    assert size.weight_bytes == pytest.approx((MODEL / "model.safetensors").stat().st_size, rel=0.001)
    # 30 layers, keys and values, 3 heads of 64, 2 bytes
    assert size.kv_bytes(100) == 100 * 30 * 2 * 3 * 64 * 2
    assert (size.num_kv_heads, size.max_length) == (3, 8192)
    assert size_of(str(MODEL), dtype="float32").weight_bytes == 2 * size.weight_bytes
    assert size_of(str(MODEL), kv_cache_dtype="fp8").full_bytes == size.full_bytes / 2


@pytest.mark.parametrize(
    ("name", "billions", "active", "gib"),
    [
        ("llama-3-8b", 8.03, 8.03, 14.96),
        ("llama-3-70b", 70.55, 70.55, 131.4),
        ("qwen3-30b-a3b", 30.5, 3.3, 56.9),  # "30.5B in total and 3.3B activated"
        ("gemma-4-31b", 30.7, 30.7, 57.2),
        ("deepseek-v3", 671, 37, 1250),  # "671B total parameters with 37B activated"
        ("qwen3.5-9b", 8.95, 8.95, 16.7),
    ],
)
def test_parameters_are_those_that_publishers_state(
    tmp_path: Path, name: str, billions: float, active: float, gib: float
) -> None:
    size = size_of(config_only(tmp_path, name))
    assert size.num_parameters / 1e9 == pytest.approx(billions, rel=0.01)
    assert size.num_active / 1e9 == pytest.approx(active, rel=0.03)
    assert size.weight_bytes / 2**30 == pytest.approx(gib, rel=0.01)


def test_quantized_weights_count_as_they_are_stored(tmp_path: Path) -> None:
    whole, eight = size_of(config_only(tmp_path, "llama-3-8b")), size_of(config_only(tmp_path, "llama-3-8b-fp8"))
    assert eight.num_parameters == whole.num_parameters
    # Embedding and head (2 x 128,256 x 4,096) stay 16 bits wide.
    assert eight.weight_bytes == pytest.approx(whole.weight_bytes / 2 + 128_256 * 4_096 * 2, rel=0.01)
    assert size_of(config_only(tmp_path, "llama-3-8b"), quantization="fp8") == eight
    # The publisher's files of this one have 30.9 GB, the tower that sees among them.
    assert size_of(config_only(tmp_path, "qwen3.8-27b-fp8")).weight_bytes / 1e9 == pytest.approx(29.5, rel=0.02)


def test_a_layer_of_a_kind_that_is_not_known_counts_in_full(tmp_path: Path) -> None:
    path = Path(config_only(tmp_path, "llama-3-8b")) / "config.json"
    config = json.loads(path.read_text())
    known = size_of(str(path.parent)).full_bytes
    config["layer_types"] = ["conv"] * 8 + ["chunked_attention"] * 24
    path.write_text(json.dumps(config))
    assert size_of(str(path.parent), dtype="bfloat16").full_bytes == known * 24 / 32


def test_the_cache_of_each_kind_of_layer(tmp_path: Path) -> None:
    llama = size_of(config_only(tmp_path, "llama-3-8b"))
    assert (llama.kv_bytes(1), llama.window_bytes, llama.state_bytes) == (128 * KIB, 0, 0)
    # All of Mistral's layers have a window of 4,096 tokens.
    mistral = size_of(config_only(tmp_path, "mistral-7b"))
    assert mistral.kv_bytes(4_096) == mistral.kv_bytes(9_999) == 4_096 * 128 * KIB
    # 10 of Gemma's 60 layers attend to everything, with 4 heads of 512; the others to 1,024 tokens,
    # with 16 heads of 256.
    gemma = size_of(config_only(tmp_path, "gemma-4-31b"))
    assert gemma.full_bytes == 10 * 2 * 4 * 512 * 2
    assert gemma.window_bytes == 50 * 2 * 16 * 256 * 2
    # 8 of 32 layers hold 4 heads of 256; the other 24 a state of 32 heads x 128 x 128 in float32.
    qwen = size_of(config_only(tmp_path, "qwen3.5-9b"))
    assert (qwen.full_bytes, qwen.state_bytes) == (32 * KIB, 24 * 32 * 128 * 128 * 4)
    # 61 layers of a latent of 512 and 64 positions, on every GPU.
    deepseek = size_of(config_only(tmp_path, "deepseek-v3"))
    assert (deepseek.full_bytes, deepseek.num_kv_heads) == (61 * (512 + 64) * 2, 1)


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        ({"rope_type": "linear", "factor": 4.0}, 4 * 4096),
        ({"type": "dynamic", "factor": 2.0}, 2 * 4096),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
         | {"original_max_position_embeddings": 1024}, 4096),
        ({"rope_type": "default"}, 4096),
    ],
)  # fmt: skip
def test_rope_scaling_extends_the_length_as_vllm_does(tmp_path: Path, rope: dict[str, Any], length: int) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 600, "max_position_embeddings": 4096,
        "rope_scaling": rope,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert size_of(str(tmp_path)).max_length == length
    assert size_of(str(tmp_path), hf_overrides={"max_position_embeddings": 8192}).max_length == 2 * length
