"""TRL's trainers on a tiny model of random weights: what is published loads as it is, and ours do what they say."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from kailin_ray.config import PublishConfig, load
from kailin_ray.dataset.publish import publish
from kailin_ray.dataset.splits import is_held_out
from kailin_ray.training import loop
from kailin_ray.training.tokens import tokenize
from tests.conftest import MODEL
from tests.dataset.test_publish import RECORD
from tests.support import runs
from tests.training.test_examples import config

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the small model's tokenizer and random weights."""
    return make_tiny(tmp_path_factory.mktemp("models") / "tiny")


def make_tiny(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, **TINY))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


PMIDS = [pmid for pmid in range(10, 30) if not is_held_out(pmid)][:8]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with some rows in each config."""
    return publish_as(tmp_path_factory.mktemp("published"), "parquet")


def publish_as(folder: Path, name: str, sft: str = "messages") -> Path:
    """A run of eight abstracts, published in a format."""
    source, context = RECORD["shown"]
    rows = [
        RECORD | {"pmid": pmid, "mesh": [], "title": title, "shown": [source | {"title": title}, context]}
        for pmid, title in ((pmid, f"Azide {pmid}.") for pmid in PMIDS)
    ]
    keys = [f"run={runs.run(folder / 'run', rows)}", f"out={folder / 'dataset'}", f"format={name}", f"sft={sft}"]
    return publish(load(PublishConfig, "publish", [*keys, "benchmarks=[]", "dedup_questions=null"])).dataset.path


def options(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True, "bf16": False,
        "report_to": "none", "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip


def load_train(folder: Path, name: str, cache: Path) -> Dataset:
    return datasets.load_dataset(str(folder), name, split="train", cache_dir=str(cache))


def train_two_steps(rows: Dataset, tiny: Path, folder: Path) -> Any:
    """TRL's trainer on rows as they are, after two steps."""
    trainer = SFTTrainer(model=str(tiny), args=SFTConfig(**options(folder)), train_dataset=rows)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 2
    assert all(9 < loss < 13 for loss in losses)  # random weights: about the vocabulary's logarithm, 10.8
    return trainer


@pytest.mark.parametrize("name", ["judge", "sft", "pretrain"])
def test_published_configs_load_into_trl_s_sft_trainer_as_they_are(
    published: Path, tiny: Path, tmp_path: Path, name: str
) -> None:
    rows = load_train(published, name, tmp_path / "cache")
    trainer = train_two_steps(rows, tiny, tmp_path)
    if name == "sft":
        labels = next(iter(trainer.get_train_dataloader()))["labels"][0]
        learned = AutoTokenizer.from_pretrained(tiny).decode(labels[labels != -100])
        assert learned.removesuffix("\n") == "Yes, it does.\nAnswer: yes<|im_end|>"


def test_published_texts_of_sft_load_into_trl_s_sft_trainer_as_they_are(tiny: Path, tmp_path: Path) -> None:
    rows = load_train(publish_as(tmp_path, "jsonl", "text"), "sft", tmp_path / "cache")
    train_two_steps(rows, tiny, tmp_path)


ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def as_messages(row: dict[str, Any]) -> dict[str, Any]:
    """A row of sharegpt or alpaca as LLaMA-Factory's converters and axolotl's mappings read it."""
    if "conversations" in row:
        return {"messages": [{"role": ROLES[one["from"]], "content": one["value"]} for one in row["conversations"]]}
    asked = "\n".join(part for part in (row["instruction"], row["input"]) if part)
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    return {"messages": [*system, {"role": "user", "content": asked}, {"role": "assistant", "content": row["output"]}]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("jsonl", "sft"), ("jsonl", "judge"), ("jsonl", "pretrain"), ("sharegpt", "sft"), ("sharegpt", "judge"),
        ("alpaca", "sft"), ("alpaca", "judge"), ("alpaca", "pretrain"),
    ],
)  # fmt: skip
def test_the_other_formats_train_too(tiny: Path, tmp_path: Path, form: str, name: str) -> None:
    rows = load_train(publish_as(tmp_path, form), name, tmp_path / "cache")
    if form != "jsonl" and name != "pretrain":
        rows = rows.map(as_messages, remove_columns=rows.column_names)
    train_two_steps(rows, tiny, tmp_path)


def test_published_preferences_load_into_trl_s_dpo_trainer_as_they_are(
    published: Path, tiny: Path, tmp_path: Path
) -> None:
    rows = load_train(published, "preference", tmp_path / "cache")
    args = DPOConfig(**options(tmp_path))
    trainer = DPOTrainer(model=str(tiny), args=args, train_dataset=rows, peft_config=LoraConfig(r=4))
    trainer.train()
    first = next(row["loss"] for row in trainer.state.log_history if "loss" in row)
    assert first == pytest.approx(0.6931, abs=1e-3)  # before the first step policy and reference are one


KEYS = [
    "model.dtype=float32", "optimization.batch_size=2", "optimization.per_device_batch_size=2",
    "optimization.max_steps=2", "optimization.warmup_steps=0", "optimization.learning_rate=0.01", "lora.r=4",
]  # fmt: skip


def trained(published: Path, tiny: Path, folder: Path, task: str, *keys: str) -> tuple[Any, Any]:
    """Our trainer after its steps, and its configuration."""
    given = config(task, published, f"model.path={tiny}", *KEYS, *keys)
    name = given.data.name  # type: ignore[union-attr]
    rows = load_train(published, name, folder / "cache")
    made, _ = tokenize(rows, given, AutoTokenizer.from_pretrained(tiny), None)
    trainer = loop.make_trainer(given, made, None, folder / "checkpoints")
    trainer.train()
    return trainer, given


def differs(one: Path, two: Path) -> bool:
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert a.keys() == b.keys()
    return any(not torch.equal(a[name], b[name]) for name in a)


def test_dpo_from_an_adapter_takes_it_as_its_reference_and_saves_one_adapter(
    published: Path, tiny: Path, tmp_path: Path
) -> None:
    first, given = trained(published, tiny, tmp_path / "a", "sft")
    loop.save(first, given, tmp_path / "first")
    second, given = trained(published, tiny, tmp_path / "b", "dpo", f"model.adapter={tmp_path / 'first'}")
    losses = [row["loss"] for row in second.state.log_history if "loss" in row]
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # against the adapter itself, not the bare model
    loop.save(second, given, tmp_path / "second")
    assert sorted(path.name for path in (tmp_path / "second").iterdir() if path.suffix != ".md") == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert differs(tmp_path / "first", tmp_path / "second")


def test_a_merged_model_says_what_the_adapter_does(published: Path, tiny: Path, tmp_path: Path) -> None:
    trainer, given = trained(published, tiny, tmp_path / "a", "sft")
    loop.save(trainer, given, tmp_path / "adapter")
    merging = config("sft", published, f"model.path={tiny}", *KEYS, "merge_adapter=true")
    ids = torch.arange(100, 140)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    bare = base(input_ids=ids).logits
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter")(input_ids=ids).logits
    loop.save(trainer, merging, tmp_path / "whole")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)(input_ids=ids).logits
    assert torch.allclose(merged, adapted, atol=1e-4)
    assert not torch.allclose(merged, bare, atol=1e-3)
    assert AutoTokenizer.from_pretrained(tmp_path / "whole").chat_template


def test_packed_texts_fill_their_sequences(published: Path, tiny: Path, tmp_path: Path) -> None:
    keys = ["optimization.packing=true", "optimization.max_length=256"]
    trainer, _ = trained(published, tiny, tmp_path, "pretrain", *keys)
    lengths = [len(row["input_ids"]) for row in trainer.train_dataset]
    assert len(lengths) < 8  # texts
    assert max(lengths) <= 256


def test_pairs_are_drawn_by_their_margins() -> None:
    given = config("dpo", Path("x"), "dpo.weight_by_margin=true")
    rows = Dataset.from_list([{"margin": margin} for margin in [0.0] * 50 + [1.0] * 50])
    drawn = loop._sample_by_margin(rows, given)
    assert len(drawn) == 100
    assert set(drawn["margin"]) == {1.0}


def test_a_checkpoint_counts_when_it_is_whole(tmp_path: Path) -> None:
    assert loop.last_checkpoint(tmp_path) is None
    for step in (2, 10, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step < 12:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert loop.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert not (tmp_path / "checkpoint-12").exists()
