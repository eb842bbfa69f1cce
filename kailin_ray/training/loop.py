"""The work of each Ray Train worker: run TRL's trainer on the examples, Parquet files in the scratch folder.

The only module that imports TRL and PEFT. The checkpoints in ``checkpoints/`` are transformers' own. A checkpoint is
complete when it holds ``trainer_state.json``, which is written last.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer import utils as trl_utils

from kailin_ray.config import TrainConfig
from kailin_ray.engines.adapters import Figures
from kailin_ray.engines.cpu import multiplies_bfloat16
from kailin_ray.engines.tokenizer import load_tokenizer
from kailin_ray.io.files import write_json
from kailin_ray.training.judge_accuracy import compute_accuracy, probabilities, with_examples

Model = Any
STOP = "stop"
"""The file in the scratch folder that asks the workers to stop."""
_Measured = Literal["loss", "mean_token_accuracy", "rewards/accuracies", "rewards/margins"]
LOGGED = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm")


class TokenizedDPOTrainer(DPOTrainer):
    """TRL's trainer on pairs of token ids. TRL itself would tokenize texts, and parse special tokens in them."""

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **options: Any) -> Any:
        return dataset


class Progress(TrainerCallback):
    """Writes the training's progress to a file, for the driver."""

    def __init__(self, path: Path):
        self._path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        """Write the step and the loss, if the log has a loss."""
        if state.is_world_process_zero and logs and "loss" in logs:
            write_json(self._path, {"step": state.global_step, "steps": state.max_steps, "loss": float(logs["loss"])})


class Stop(TrainerCallback):
    """Ends the training after a step once the driver's file exists, in all workers at once and with a checkpoint."""

    def __init__(self, path: Path):
        self._path = path
        self.asked = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Agree with the other workers: one may see the file a step before another."""
        seen = torch.tensor(float(self._path.exists()), device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(seen, op=torch.distributed.ReduceOp.MAX)
        if seen.item() and state.global_step < state.max_steps:
            self.asked = control.should_save = control.should_training_stop = True


class WorkerArguments(TypedDict):
    """The arguments that the driver passes to each worker."""

    config: TrainConfig
    scratch: Path


def train_worker(given: WorkerArguments) -> None:
    """Train from the last checkpoint on, measure, and write the result to the scratch folder, unless stopped."""
    import ray.train

    config, scratch = given["config"], given["scratch"]
    if not config.workers.gpus:
        torch.set_num_threads(max(1, int(config.workers.cpus)))
    train, test = (_read_split(scratch / f"{name}.parquet") for name in ("train", "test"))
    assert train is not None
    trainer = make_trainer(config, train, test, scratch / "checkpoints")
    trainer.add_callback(Progress(scratch / "progress.json"))
    # Measured before the first step; a resumed training has this file already.
    before = scratch / "before.json"
    if test is not None and not before.exists():
        figures = evaluate(trainer, config, test)
        if trainer.is_world_process_zero():
            write_json(before, figures)
    stop = Stop(scratch / STOP)
    trainer.add_callback(stop)
    trainer.train(resume_from_checkpoint=last_checkpoint(scratch / "checkpoints"))
    if stop.asked:
        return
    after = evaluate(trainer, config, test) if test is not None else None
    if trainer.is_world_process_zero():
        save(trainer, config, scratch / "result")
        state = trainer.state
        write_json(
            scratch / "after.json",
            {
                "figures": after,
                "steps": state.global_step,
                "log": [{name: row[name] for name in LOGGED if name in row} for row in state.log_history],
            },
        )
    trainer.accelerator.wait_for_everyone()
    ray.train.report({"steps": trainer.state.global_step})


def _read_split(file: Path) -> Dataset | None:
    return Dataset.from_parquet(str(file), cache_dir=str(file.parent / "cache")) if file.exists() else None


def last_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint. The worker of rank 0 removes incomplete checkpoints."""
    complete = []
    for path in folder.glob("checkpoint-*"):
        if (path / "trainer_state.json").exists():
            complete.append(path)
        elif int(os.environ.get("RANK", 0)) == 0:
            shutil.rmtree(path, ignore_errors=True)
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None


def make_trainer(config: TrainConfig, train: Dataset, test: Dataset | None, folder: Path) -> Any:
    """Return TRL's trainer for the task, on token ids."""
    dpo, on_gpu = config.task == "dpo", bool(config.workers.gpus)
    if not on_gpu:
        # Without Triton, TRL also scores the whole vocabulary at every prompt token and drops the result (1.16,
        # add_fused_lm_head: for accelerators that compile per shape). On CPUs this was half of a question's training.
        trl_utils._use_triton = lambda device: True
    optimization = config.optimization
    shared = config.workers.num * config.at_once
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": config.seed,
        "num_train_epochs": optimization.num_train_epochs,
        "max_steps": optimization.max_steps or -1,
        "learning_rate": optimization.learning_rate,
        "lr_scheduler_type": optimization.lr_scheduler_type,
        "warmup_steps": optimization.warmup_steps,
        "per_device_train_batch_size": config.at_once,
        "per_device_eval_batch_size": config.at_once,
        "gradient_accumulation_steps": max(1, optimization.batch_size // shared),
        "max_length": optimization.max_length,
        "weight_decay": optimization.weight_decay,
        "max_grad_norm": optimization.max_grad_norm,
        "gradient_checkpointing": optimization.gradient_checkpointing,
        "save_steps": optimization.save_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not on_gpu,
        "bf16": config.model.dtype == "bfloat16" and (on_gpu or multiplies_bfloat16()),
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": on_gpu,
    }
    tokenizer = load_tokenizer(config.model.path, config.model.revision)
    arguments: dict[str, Any] = {
        "model": load_model(config),
        "processing_class": tokenizer,
        "train_dataset": _sample_by_margin(train, config) if dpo and config.dpo.weight_by_margin else train,
        "eval_dataset": test,
        "peft_config": _lora(config) if config.lora and not config.model.adapter else None,
    }
    if dpo:
        return TokenizedDPOTrainer(args=DPOConfig(**options, beta=config.dpo.beta), **arguments)
    is_plain_text = config.task == "pretrain"
    sft_options: dict[str, Any] = {
        "packing": is_plain_text and optimization.packing,
        "completion_only_loss": not is_plain_text,
        "eval_packing": False,
    }
    return SFTTrainer(args=SFTConfig(**options, **sft_options), **arguments)


def load_model(config: TrainConfig) -> Model:
    """Load the model to train, with the adapter to continue from."""
    # Trained weights stay in float32. This is also faster on CPUs: autocast computes matrix products in bfloat16, while
    # weights in bfloat16 take 1.5 times as long (docs/decisions.md).
    dtype = config.model.dtype if config.lora and config.workers.gpus else "float32"
    model = AutoModelForCausalLM.from_pretrained(
        config.model.path, revision=config.model.revision, dtype=getattr(torch, dtype), use_safetensors=True
    )
    model.config.use_cache = False
    if config.model.adapter:
        model = PeftModel.from_pretrained(model, config.model.adapter, is_trainable=True)
    return model


def _lora(config: TrainConfig) -> LoraConfig:
    assert config.lora
    targets = config.lora.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora.r,
        lora_alpha=config.lora.lora_alpha,
        lora_dropout=config.lora.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )


def _sample_by_margin(train: Dataset, config: TrainConfig) -> Dataset:
    """Draw as many pairs with replacement, in proportion to their margins."""
    margins = np.array(train["margin"], float)
    drawn = np.random.default_rng(config.seed).choice(len(train), len(train), p=margins / margins.sum())
    return train.select(drawn)


def evaluate(trainer: Any, config: TrainConfig, test: Dataset) -> Figures:
    """Measure the loss on the test split; for DPO also how it ranks pairs, for the judge also its accuracy."""
    names: list[_Measured] = ["loss", "mean_token_accuracy"]
    if trainer.state.global_step:  # before the first step, policy and reference are equal and rank nothing
        names += ["rewards/accuracies", "rewards/margins"]
    metrics = trainer.evaluate()
    figures = Figures()
    for name in names:
        if f"eval_{name}" in metrics:
            figures[name] = round(float(metrics[f"eval_{name}"]), 5)
    if config.task == "judge":
        figures.update(judge_figures(trainer, config))
    return figures


def judge_figures(trainer: Any, config: TrainConfig) -> Figures:
    """See ``compute_accuracy``. An untrained judge is also asked with the worked examples, as in a run."""
    scratch = Path(trainer.args.output_dir).parent
    rows = Dataset.from_parquet(str(scratch / "judge-test.parquet"), cache_dir=str(scratch / "cache"))
    says_a = np.array([completion[0]["content"] == "A" for completion in rows["completion"]])
    arguments = tuple(sorted(config.model.chat_template.items()))
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    prompts_by_form: dict[Literal["bare", "with_examples"], list[Any]] = {"bare": list(rows["prompt"])}
    if not trainer.state.global_step:
        prompts_by_form["with_examples"] = [with_examples(prompt) for prompt in rows["prompt"]]
    figures = Figures()
    for name, prompts in prompts_by_form.items():
        # No autocast: bfloat16 logits are a sixteenth apart, so a judge with a slight preference would tie.
        shown_a = probabilities(model, trainer.processing_class, prompts, arguments)
        figures[name] = compute_accuracy(shown_a, says_a, rows["pmid"])
    model.train()
    return figures


def save(trainer: Any, config: TrainConfig, folder: Path) -> None:
    """Save the adapter, or the whole model with its tokenizer."""
    shutil.rmtree(folder, ignore_errors=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel):
        if not config.merge_adapter:
            model.save_pretrained(str(folder), selected_adapters=["default"])
            return
        model.set_adapter("default")
        model = model.merge_and_unload(adapter_names=["default"])
    model.config.use_cache = True
    model.to(getattr(torch, config.model.dtype)).save_pretrained(str(folder))
    trainer.processing_class.save_pretrained(str(folder))
