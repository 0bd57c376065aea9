"""What somebody meant who wrote a key, a choice or a flag that there is not, as other trainers, the reference and argparse spell it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from facenet.config.slots import SLOTS, closest
from facenet.errors import shown
from facenet.files import trusted
from facenet.files.choices import built_in as choices

Row = str | tuple[str, str]
# Names, in lower case and with _ for -: the overrides, where {} is the value; two of a switch that is on, and off.
HABITS: dict[str, Row] = {
    "lr learning_rate init_lr base_lr initial_lr": "optimizer.lr={}",
    "min_lr": "schedule.min_lr_ratio=0.01",
    "wd": "optimizer.weight_decay={}",
    "epoch epochs num_epochs max_epochs n_epochs": "trainer.epochs={}",
    "step steps max_steps num_steps iterations": "trainer.max_steps={}",
    "batch_size bs batch batchsize train_batch_size b": "data.batch_size={}",
    "eval_batch_size val_batch_size test_batch_size": "benchmark.batch_size={}",
    "num_workers workers n_workers j": "data.num_workers={}",
    "image_size img_size imgsz input_size size": "data.image_size={}",
    "input_shape": "data.image_size=160",
    "root train_data_path data_path data_dir data_root train_dir dataset": "data=folder data.root={}",
    "train_annotation_path annotation_path": "data=annotation data.list={}",
    "val_data_path lfw_dir_path lfw lfw_dir lfw_path": "benchmark=lfw benchmark.root={}",
    "val_pairs_path lfw_pairs_path pairs": "benchmark=lfw benchmark.pairs={}",
    "lfw_eval_flag do_eval": ("benchmark=lfw", "benchmark=none"),
    "model_name model arch architecture net network": "backbone={}",
    "model_path pretrained_path pretrained finetune": "weights={}",
    "ckpt checkpoint resume_from load": "resume={}",
    "checkpoint_path save_dir output_dir out_dir outdir output work_dir log_dir logdir": "hydra.run.dir={}",
    "name run_name exp_name": "tracking.run_name={}",
    "experiment_name project": "tracking.experiment={}",
    "device": "accelerator={}",
    "cuda gpu use_gpu use_cuda": ("accelerator=cuda", "accelerator=cpu"),
    "cpu no_cuda": ("accelerator=cpu", "accelerator=auto"),
    "amp use_amp fp16 half autocast mixed_precision grad_scale dtype": ("precision=fp16", "precision=fp32"),
    "bf16 bfloat16": ("precision=bf16", "precision=fp32"),
    "loss_scale": "precision=fp16 precision.init_scale={}",
    "distributed ddp": ("distributed=ddp", "distributed=single"),
    "gpus num_gpus ngpus n_gpu devices nproc_per_node nproc num_processes world_size": "distributed=ddp distributed.num_processes={}",
    "sync_bn syncbn": ("distributed=ddp distributed.sync_batch_norm=true", "distributed.sync_batch_norm=false"),
    "gradient_accumulation_steps accum accumulation grad_accum accumulate_grad_batches": "trainer.accumulate={}",
    "log_freq log_interval print_freq": "trainer.log_every={}",
    "save_period save_total_limit": "trainer.keep={}",
    "clip clip_grad grad_clip max_grad_norm gradient_clip_val": "trainer.clip_grad_norm={}",
    "ema": ("trainer.ema_decay=0.999", "trainer.ema_decay=0.0"),
    "warm_up warmup": "schedule=warmup_cosine schedule.warmup_epochs={}",
    "optimizer_type opt optim": "optimizer={}",
    "lr_decay_type scheduler lr_scheduler sched": "schedule={}",
    "criterion loss_fn loss_type": "loss={}",
    "augmentation aug transform transforms": "augment={}",
    "config cfg recipe": "preset={}",
}
# Names that have no override, and what there is instead.
INSTEAD = {
    "nnodes nnode node_rank master_addr master_port local_rank": "torchrun's own: torchrun --nnodes ... -m facenet distributed=ddp",
    "init_epoch": "a run goes on with resume=RUN, which counts its epochs itself",
    "early_stop patience": "schedules end at a known epoch, and best.pt keeps the best",
    "do_predict predict": "no command compares two single pictures; facenet-evaluate judges a list of pairs",
    "help": "--help",
    "version": "--version",
    "eval evaluate test val validate": "a command of its own: facenet-evaluate checkpoint=FILE",
}
# Of each group: what others call a choice.
CALLED = {
    "accelerator": {"gpu": "cuda", "cuda:0": "cuda", "0": "cuda", "tecorigin": "sdaa"},
    "backbone": {"facenet": "inception_resnet_v1", "mobilenet": "mobilenet_v1", "inception_resnetv1": "inception_resnet_v1"},
    "distributed": {"true": "ddp", "false": "single", "none": "single", "dp": "ddp"},
    "loss": {"softmax": "ce", "cross_entropy": "ce", "crossentropy": "ce", "batch_hard": "triplet_hard"},
    "optimizer": {"sgdm": "sgd"},
    "precision": {"amp": "fp16", "16": "fp16", "half": "fp16", "float16": "fp16", "16-mixed": "fp16", "true": "fp16"}
    | {"bfloat16": "bf16", "bf16-mixed": "bf16", "32": "fp32", "float32": "fp32", "float": "fp32", "false": "fp32"},
    "resume": {"true": "auto", "...": "auto"},
    "schedule": {"cos": "reference_cosine", "cosine": "warmup_cosine", "step": "reference_step", "none": "constant"},
}  # fmt: skip
OFF = ("false", "off", "no", "0", "null")
# A place where a choice is expected.
PLACES = {
    "data": "data=folder data.root={}",
    "benchmark": "benchmark=lfw benchmark.root={}",
    "backbone": "weights={}",
}
OTHER_NETWORKS = "; a network of timm's, or your own, is a file experiments/backbone/{}.yaml beside your work that names it: docs/extending.md"


def meant(at: str, value: Any, whole: Mapping[str, Any]) -> str:
    """ "; write optimizer.lr=0.1" for a key that this config does not have; nothing where nothing in it is like that."""
    overrides, words = instead_of(at, value, whole), words_about(at)
    return f"; write {overrides}" if overrides else f"; {words}" if words else ""


def overrides_for(name: str, value: str | None, whole: Mapping[str, Any]) -> str:
    """Those that do what a flag of another program does; a key of the config may be one."""
    own = is_key(name, whole) or name == trusted.KEY
    return filled(f"{name}={{}}", value) if own else instead_of(name, value, whole)


def words_about(at: str) -> str:
    return str(spread(INSTEAD).get(name_in(at), ""))


def instead_of(at: str, value: Any, whole: Mapping[str, Any]) -> str:
    """The overrides that do what a key or a flag says, as a shell takes them; else nothing."""
    while isinstance(value, dict) and len(value) == 1 and "_target_" not in value:
        ((key, value),) = value.items()
        at = f"{at}.{key}"
    name = name_in(at)
    row = spread(HABITS).get(name)
    if row is not None and all(is_key(part.partition("=")[0], whole) for part in first(row).split()):
        return filled(row, value)
    if found := places_in(whole, name, at) or [
        path for path in paths(whole) if "/" in at and path == at.replace("/", ".")
    ]:
        return " or ".join(filled(f"{path}={{}}", value) for path in found[:2])
    others = [
        f"{group}={choice} {group}.{name}={{}}" for group in parts_of(whole) for choice in choices_with(group, name)
    ]
    return filled(others[0], value) if others else ""


def name_in(at: str) -> str:
    return re.sub(r"[\W_]+", "_", at.rpartition(".")[2]).strip("_").lower()


def first(row: Row) -> str:
    return row if isinstance(row, str) else row[0]


def is_key(key: str, whole: Mapping[str, Any]) -> bool:
    """Whether the config has it, or would have it under another choice."""
    group, _, own = key.partition(".")
    return (
        group in ("hydra", "preset")
        or (group in whole and not own)
        or key in paths(whole)
        or (group in parts_of(whole) and bool(choices_with(group, own)))
    )


def parts_of(whole: Mapping[str, Any]) -> list[str]:
    """The groups of a config, which others can be chosen for."""
    return [key for key, node in whole.items() if isinstance(node, dict) and "_target_" in node]


def filled(row: Row, value: Any) -> str:
    """The overrides of a row with the value in them, its choice as this project calls it. None: no value was given."""
    text = value if isinstance(value, str) else json.dumps(value) if isinstance(value, int | float) else "..."
    if isinstance(row, tuple):
        row = row[text.lower() in (*OFF, "none")]
    parts = []
    for part in row.split():
        key, _, own = part.partition("=")
        own = own.replace("{}", text)
        parts.append(shlex.quote(shown(f"{key}={CALLED.get(key, {}).get(own.lower(), own)}")))
    return " ".join(parts)


def respelled(value: Any, path: str) -> Iterator[Any]:
    """What a value of the wrong kind may stand for."""
    text = str(value).lower()
    if isinstance(value, float) and value.is_integer():
        yield int(value)
    if text in ("yes", "on", "y", "1", "no", "off", "n", "0"):
        yield text in ("yes", "on", "y", "1")
    if text in CALLED.get(path, {}):
        yield CALLED[path][text]


def places_in(node: Any, name: str, at: str) -> list[str]:
    """The keys of a config that end with the name, those of the same group first and alone."""
    found = [path for path in paths(node) if path != at and path.rpartition(".")[2].lower() == name and "." in path]
    beside = [path for path in found if path.startswith(f"{at.partition('.')[0]}.")]
    return beside or found


def paths(node: Any, path: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        at = f"{path}.{key}" if path else str(key)
        yield at
        yield from paths(value, at)


def spread(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row for names, row in table.items() for name in names.split()}


def choices_with(group: str, key: str) -> list[str]:
    """The choices of a group that have a key."""
    has = re.compile(rf"^{re.escape(key)}:", re.MULTILINE)
    return [name for name, text in choices(group).items() if has.search(text)]


def choice_meant(group: str, choice: str, known: list[str]) -> str:
    """ "; did you mean 'adam'?" for a choice that its group does not have, or where else there is one of that name."""
    name = choice.lower()
    if "/" in choice and group in PLACES:
        return f"; write {filled(PLACES[group], choice)}"
    called = CALLED.get(group, {}).get(name) or (name in OFF and "none")
    if called in known:
        return f"; did you mean {called!r}?"
    others = [each for each in SLOTS if group in SLOTS and each != group and name in choices(each)]
    if len(others) == 1:
        return f"; write {others[0]}={name}"
    return closest(name, known) or (OTHER_NETWORKS.format(shown(choice)) if group == "backbone" else "")


def no_choice(group: str, choice: str, known: Sequence[str]) -> str:
    return f"{group}: no choice {shown(choice)!r} among {', '.join(known) or 'none'}{choice_meant(group, choice, list(known))}"
