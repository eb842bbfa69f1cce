"""What each worker of Ray Train does: TRL's trainer on examples that lie as Parquet in the scratch folder.

The only module that knows TRL and PEFT. Checkpoints are transformers' own, in ``checkpoints/``; one counts that holds
``trainer_state.json``, which is written last.
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
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer import utils as trl_utils

from kailin_ray.config import TrainConfig
from kailin_ray.engines.adapters import Figures
from kailin_ray.engines.cpu import multiplies_bfloat16
from kailin_ray.io.files import write_json
from kailin_ray.training.judge_accuracy import compute_accuracy, probabilities, with_examples

Model = Any
STOP = "stop"
"""The file in the scratch folder that asks the workers to stop."""
_Measured = Literal["loss", "mean_token_accuracy", "rewards/accuracies", "rewards/margins"]
LOGGED = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm")


class TokenizedDPOTrainer(DPOTrainer):
    """TRL's trainer on pairs that are token ids: it tokenizes texts itself, and parses special tokens out of them."""

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **options: Any) -> Any:
        return dataset


class Progress(TrainerCallback):
    """Tells the driver through a file how far the training has come."""

    def __init__(self, path: Path):
        self._path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        """Write the step, and the loss where the log has one."""
        if state.is_world_process_zero and logs and "loss" in logs:
            write_json(self._path, {"step": state.global_step, "steps": state.max_steps, "loss": float(logs["loss"])})


class Stop(TrainerCallback):
    """Ends the training after a step, with a checkpoint and in all workers at once, when the driver's file is there."""

    def __init__(self, path: Path):
        self._path = path
        self.asked = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask the others too: one may see the file a step before another."""
        seen = torch.tensor(float(self._path.exists()), device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(seen, op=torch.distributed.ReduceOp.MAX)
        if seen.item() and state.global_step < state.max_steps:
            self.asked = control.should_save = control.should_training_stop = True


class WorkerArguments(TypedDict):
    """What the driver gives each worker."""

    config: TrainConfig
    scratch: Path


def train_worker(given: WorkerArguments) -> None:
    """Train from the last checkpoint on, measure, and leave the result in the scratch folder, unless stopped."""
    import ray.train

    config, scratch = given["config"], given["scratch"]
    if not config.workers.gpus:
        torch.set_num_threads(max(1, int(config.workers.cpus)))
    train, test = (_read_split(scratch / f"{name}.parquet") for name in ("train", "test"))
    assert train is not None
    trainer = make_trainer(config, train, test, scratch / "checkpoints")
    trainer.add_callback(Progress(scratch / "progress.json"))
    # Before the first step; a run that goes on has written it then.
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
    """The newest whole checkpoint; those that are not whole are removed by the first worker that finds them."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if (path / "trainer_state.json").exists():
            whole.append(path)
        elif int(os.environ.get("RANK", 0)) == 0:
            shutil.rmtree(path, ignore_errors=True)
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def make_trainer(config: TrainConfig, train: Dataset, test: Dataset | None, folder: Path) -> Any:
    """TRL's trainer of the task, on token ids."""
    dpo, on_gpu = config.task == "dpo", bool(config.workers.gpus)
    if not on_gpu:
        # TRL scores the whole vocabulary at every token of the prompt too, to drop it, where it has no Triton (1.16,
        # add_fused_lm_head: for accelerators that compile per shape). On CPUs that was half of a question's training.
        trl_utils._use_triton = lambda device: True
    asked = config.optimization
    shared = config.workers.num * config.at_once
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": config.seed,
        "num_train_epochs": asked.num_train_epochs,
        "max_steps": asked.max_steps or -1,
        "learning_rate": asked.learning_rate,
        "lr_scheduler_type": asked.lr_scheduler_type,
        "warmup_steps": asked.warmup_steps,
        "per_device_train_batch_size": config.at_once,
        "per_device_eval_batch_size": config.at_once,
        "gradient_accumulation_steps": max(1, asked.batch_size // shared),
        "max_length": asked.max_length,
        "weight_decay": asked.weight_decay,
        "max_grad_norm": asked.max_grad_norm,
        "gradient_checkpointing": asked.gradient_checkpointing,
        "save_steps": asked.save_steps,
        "save_total_limit": 2,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not on_gpu,
        "bf16": config.model.dtype == "bfloat16" and (on_gpu or multiplies_bfloat16()),
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": on_gpu,
    }
    tokenizer = AutoTokenizer.from_pretrained(config.model.path, revision=config.model.revision)
    given: dict[str, Any] = {
        "model": load_model(config),
        "processing_class": tokenizer,
        "train_dataset": _sample_by_margin(train, config) if dpo and config.dpo.weight_by_margin else train,
        "eval_dataset": test,
        "peft_config": _lora(config) if config.lora and not config.model.adapter else None,
    }
    if dpo:
        return TokenizedDPOTrainer(args=DPOConfig(**options, beta=config.dpo.beta), **given)
    plain = config.task == "pretrain"
    own: dict[str, Any] = {"packing": plain and asked.packing, "completion_only_loss": not plain, "eval_packing": False}
    return SFTTrainer(args=SFTConfig(**options, **own), **given)


def load_model(config: TrainConfig) -> Model:
    """The model to train, with the adapter that it goes on from."""
    # Weights that are trained stay in float32. CPUs also compute faster so: in bfloat16 what is a matrix product
    # (autocast), where weights of bfloat16 take 1.5 times as long (docs/decisions.md).
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
    """As many pairs, drawn by their margins."""
    margins = np.array(train["margin"], float)
    drawn = np.random.default_rng(config.seed).choice(len(train), len(train), p=margins / margins.sum())
    return train.select(drawn)


def evaluate(trainer: Any, config: TrainConfig, test: Dataset) -> Figures:
    """The test split's loss, and of DPO and the judge what they are for."""
    names: list[_Measured] = ["loss", "mean_token_accuracy"]
    if trainer.state.global_step:  # before, policy and reference are one, and rank nothing
        names += ["rewards/accuracies", "rewards/margins"]
    told = trainer.evaluate()
    found = Figures()
    for name in names:
        if f"eval_{name}" in told:
            found[name] = round(float(told[f"eval_{name}"]), 5)
    if config.task == "judge":
        found.update(judge_figures(trainer, config))
    return found


def judge_figures(trainer: Any, config: TrainConfig) -> Figures:
    """See ``judged``; untrained also with the worked examples before the prompt, as it is asked in a run."""
    scratch = Path(trainer.args.output_dir).parent
    rows = Dataset.from_parquet(str(scratch / "judge-test.parquet"), cache_dir=str(scratch / "cache"))
    says_a = np.array([completion[0]["content"] == "A" for completion in rows["completion"]])
    arguments = tuple(sorted(config.model.chat_template.items()))
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    asked: dict[Literal["bare", "with_examples"], list[Any]] = {"bare": list(rows["prompt"])}
    if not trainer.state.global_step:
        asked["with_examples"] = [with_examples(prompt) for prompt in rows["prompt"]]
    found = Figures()
    for name, prompts in asked.items():
        # No autocast: logits of bfloat16 are a sixteenth apart, at which a judge that hardly knows ties.
        shown_a = probabilities(model, trainer.processing_class, prompts, arguments)
        found[name] = compute_accuracy(shown_a, says_a, rows["pmid"])
    model.train()
    return found


def save(trainer: Any, config: TrainConfig, folder: Path) -> None:
    """The adapter; or the whole model with its tokenizer."""
    shutil.rmtree(folder, ignore_errors=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel):
        if not config.merge:
            model.save_pretrained(str(folder), selected_adapters=["default"])
            return
        model.set_adapter("default")
        model = model.merge_and_unload(adapter_names=["default"])
    model.config.use_cache = True
    model.to(getattr(torch, config.model.dtype)).save_pretrained(str(folder))
    trainer.processing_class.save_pretrained(str(folder))
