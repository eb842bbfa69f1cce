"""LoRA adapters of the small model, made here."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

SCALE = 0.05


def adapter(folder: Path, seed: int) -> Path:
    """A LoRA adapter in PEFT's format with random weights."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"task_type": "CAUSAL_LM"}))
    dice = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(30):
        for name, width in (("q_proj", 576), ("v_proj", 192)):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{prefix}.lora_A.weight"] = torch.randn(8, 576, generator=dice) * SCALE
            weights[f"{prefix}.lora_B.weight"] = torch.randn(width, 8, generator=dice) * SCALE
    save_file(weights, folder / "adapter_model.safetensors")
    return folder
