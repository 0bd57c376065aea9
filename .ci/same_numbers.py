"""Do two checkouts compute the same numbers? Small trainings and tests of networks, compared bit for bit, on the machine that runs this.

    python .ci/same_numbers.py OTHER_CHECKOUT [--only CASE]     this checkout against another, of an earlier commit say; about 4 minutes on two cores
    python .ci/same_numbers.py --record FILE [--only CASE]      keeps what this checkout computes
    python .ci/same_numbers.py --against FILE [--only CASE]     this checkout against what was kept, perhaps by another machine: within a tolerance

Each checkout is copied as it would be installed, and its commands run as processes from a folder of their own, in this environment's Python. Compared
are all metrics of all 20 steps, every tensor of the last checkpoint (the optimizer's too), and the figures of facenet-evaluate. A resumed run is also
compared with the one that nobody stopped. Values that one of two commits alone records are counted and not compared. Exit code 1 where anything
differs.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Result = dict[str, dict[str, Any]]  # part -> name, with its step -> value

COMMON = (
    *("accelerator=cpu", "seed=3", "trainer.epochs=2", "trainer.max_steps=20", "trainer.log_every=1", "trainer.keep=1"),
    *("backbone=mobilenet_v1", "backbone.trunk.width=0.125", "backbone.trunk.init=kaiming", "preprocess=letterbox"),
    *("data=synthetic", "data.num_identities=16", "data.images_per_identity=24", "data.image_size=32"),
    *("data.batch_size=24", "data.num_workers=1", "data.val_images=0.1", "data.val_identities=0.25", "augment=flip"),
    *("benchmark=heldout", "benchmark.num_pairs=100", "benchmark.num_folds=4", "tracking=mlflow"),
    *("tracking.system_metrics=false", "watch=default", "watch.nonfinite=stop"),
)
ONE, TWO = ("distributed=single",), ("distributed=ddp", "distributed.num_processes=2")
# Small learning rates: at the usual ones so narrow a network turns a last bit into a hundredth of the loss within ten steps, and what another machine
# computes could be compared with nothing. Bit for bit, any rate tells as much.
ADAM = ("optimizer=adam", "optimizer.lr=1e-5")
MUON = ("optimizer=muon", "optimizer.lr=1e-4", "optimizer.adamw_lr=3e-6")
CROSS_ENTROPY = "+loss.terms.ce={weight:1.0,loss:{_target_:facenet.losses.heads.SoftmaxHead}}"

# What is compared with another machine's. With the vector units of torch and oneDNN off, these moved by up to 9e-4 in float32, and losses by 1 in
# bfloat16, which is left out. Other images in a batch, or other features dropped, move a loss by 0.1.
SMOOTH = ("/loss", "/ce", "/triplet", "/arcface", "_distance", "/lr", "embedding_variance", "auc", "spread")
TOLERANCE = 1e-2


@dataclass(frozen=True)
class Case:
    """`evaluate`: what facenet-evaluate is told beside the checkpoint. `stop_at`: a second run is stopped after that step, and goes on."""

    train: tuple[str, ...]
    evaluate: tuple[str, ...] = ()
    stop_at: int | None = None


CASES = {
    "reference": Case(
        (
            *(*ONE, "precision=fp32", "loss=triplet_ce", "sampler=reference", "sampler.repeat_batches=false"),
            *(*ADAM, "schedule=reference_cosine", "schedule.batch_rule=false"),
        ),
        evaluate=("benchmark=heldout", "benchmark/protocol=flip_mean"),
        stop_at=13,
    ),
    "mined": Case(
        (
            *(*ONE, "precision=fp32", "loss=triplet_semi_hard", CROSS_ENTROPY, "sampler=identity"),
            *(*MUON, "schedule=warmup_cosine", "trainer.ema_decay=0.5", "trainer.clip_grad_norm=1.0"),
        ),
    ),
    "arcface bf16": Case(
        (*ONE, "precision=bf16", "loss=arcface", "sampler=shuffle", *ADAM, "schedule=onecycle", "trainer.accumulate=2"),
        evaluate=("benchmark=heldout", "precision=bf16"),
    ),
    "two processes": Case(
        (
            *(*TWO, "precision=fp32", "loss=triplet_hard", "loss.terms.triplet.loss.gather=true", CROSS_ENTROPY),
            *("sampler=identity", *ADAM, "schedule=constant"),
        ),
    ),
    "two processes bf16": Case(
        (
            *(*TWO, "precision=bf16", "loss=arcface_sharded", "loss.terms.arcface.loss.sample=0.5"),
            *("sampler=shuffle", *MUON, "schedule=warmup_cosine"),
        ),
        stop_at=6,
    ),
}


@dataclass(frozen=True)
class Code:
    """Commands of one checkout, as the beginning of an argument list, and the environment that they need."""

    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)


def copied(checkout: Path, site: Path) -> Code:
    """The code of a checkout, laid out in `site` as its setup.cfg installs it. Its commands are started by module, wherever that lies."""
    setup = configparser.ConfigParser()
    setup.read_string((checkout / "setup.cfg").read_text(encoding="utf-8"))
    places = {"facenet": "facenet", "hydra_plugins": "hydra_plugins", **dict(pairs(setup["options"]["package_dir"]))}
    for package in sorted(filter(None, places)):
        target = site / package.replace(".", "/")
        shutil.copytree(checkout / places[package], target, ignore=shutil.ignore_patterns("__pycache__"))
    module, function = dict(pairs(setup["options.entry_points"]["console_scripts"]))["facenet-evaluate"].split(":")
    evaluate = f"import sys; sys.argv[0] = 'facenet-evaluate'; from {module} import {function}; {function}()"
    environment = {"PYTHONPATH": str(site), "FACENET_CACHE": f"{site}-cache"}
    where = [sys.executable, "-c", "import facenet; print(facenet.__file__)"]
    told = subprocess.run(
        where, env={**os.environ, **environment}, cwd=site, capture_output=True, text=True, check=True
    )
    if not Path(told.stdout.strip()).is_relative_to(site):
        raise SystemExit(f"the code of {checkout} would not be what runs, but {told.stdout.strip()}")
    return Code((sys.executable, "-m", "facenet"), (sys.executable, "-c", evaluate), environment)


def pairs(text: str) -> Iterator[tuple[str, str]]:
    """Of the lines `key = value` of a field of setup.cfg."""
    for line in filter(None, text.splitlines()):
        key, _, value = line.partition("=")
        yield key.strip(), value.strip()


def results(case: Case, code: Code, folder: Path) -> Iterator[tuple[str, Result]]:
    """What the runs of a case come to: ("", of the training) and, if it has such a run, (", resumed", of that)."""
    folder.mkdir(parents=True)
    arguments = [*COMMON, *case.train, f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    finish(start(code, [*code.train, *arguments, "hydra.run.dir=straight"], folder))
    found: Result = {"metrics": metrics_of(folder / "straight"), "weights": weights_of(folder / "straight")}
    if case.evaluate:
        told = ["checkpoint=straight/checkpoints/last.pt", *case.evaluate, "accelerator=cpu", "tracking=none"]
        finish(start(code, [*code.evaluate, *told, "hydra.run.dir=evaluated"], folder))
        found["evaluation"] = dict(figures(json.loads((folder / "evaluated" / "heldout.json").read_text())))
    yield "", found
    if case.stop_at is not None:
        stop(start(code, [*code.train, *arguments, "hydra.run.dir=stopped"], folder), folder / "stopped", case.stop_at)
        finish(start(code, [*code.train, "resume=stopped"], folder))
        yield ", resumed", {"metrics": metrics_of(folder / "stopped"), "weights": weights_of(folder / "stopped")}


def start(code: Code, command: list[str], folder: Path) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "FACENET_"))}
    environment = {**kept, "OMP_NUM_THREADS": "1", **code.environment}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen[str], expected: Sequence[int] = (0,)) -> None:
    output, _ = process.communicate(timeout=600)
    if process.returncode not in expected:
        raise SystemExit(f"{process.args!r}: exit code {process.returncode}: {output[-1500:]}")


def stop(process: subprocess.Popen[str], run_dir: Path, step: int) -> None:
    """Ends a training a little after that step. Where it ends does not matter, if it goes on as if it had not."""
    log = run_dir / "train.log"
    while process.poll() is None and not (log.is_file() and f"step {step} of" in log.read_text(encoding="utf-8")):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    finish(process, expected=(128 + signal.SIGTERM,))


def metrics_of(run_dir: Path) -> dict[str, float]:
    """{"7 train/loss": value} of every metric that does not tell the time."""
    found = {}
    for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for name, value in record.get("metrics", {}).items():
            if not name.startswith("system/") and not name.endswith("_per_s"):
                found[f"{record['step']} {name}"] = float(value)
    return dict(sorted(found.items(), key=lambda item: (int(item[0].split()[0]), item[0])))


def weights_of(run_dir: Path) -> dict[str, str]:
    """{path: SHA-256} of every tensor of the last checkpoint, also of what an optimizer and random streams keep."""
    import torch

    content = torch.load(run_dir / "checkpoints" / "last.pt", weights_only=True, map_location="cpu")
    return {
        path: hashlib.sha256(
            str((leaf.dtype, leaf.shape)).encode() + leaf.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        for path, leaf in leaves(content)
        if isinstance(leaf, torch.Tensor)
    }


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else None
    if items is None:
        yield path, node
    else:
        for key, value in items:
            yield from leaves(value, f"{path}/{key}" if path else str(key))


def figures(record: dict[str, Any]) -> Iterator[tuple[str, float]]:
    return ((path, float(leaf)) for path, leaf in leaves(record) if isinstance(leaf, (int, float)))


def first_difference(one: Result, other: Result, tolerance: float = 0.0) -> str | None:
    """None where both are the same. Two NaN are."""
    places = dict.fromkeys((part, name) for result in (one, other) for part, named in result.items() for name in named)
    for part, name in places:
        first, second = one.get(part, {}).get(name), other.get(part, {}).get(name)
        if not same(first, second, tolerance):
            return f"{part}: {name}: {str(first)[:24]} and {str(second)[:24]}"
    return None


def same(first: float | str | None, second: float | str | None, tolerance: float) -> bool:
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=0, abs_tol=tolerance) or (math.isnan(first) and math.isnan(second))
    return first == second


def run(checkouts: Sequence[Path], cases: dict[str, Case], scratch: Path) -> Iterator[tuple[str, list[Result]]]:
    """Each run of each case with its results in all checkouts, which work side by side."""
    codes = [copied(checkout, scratch / f"site-{number}") for number, checkout in enumerate(checkouts)]
    with ThreadPoolExecutor(len(codes)) as pool:
        for name, case in cases.items():
            folders = [scratch / str(number) / name.replace(" ", "-") for number in range(len(codes))]
            found = list(pool.map(lambda code, folder, case=case: dict(results(case, code, folder)), codes, folders))
            for suffix in found[0]:
                yield name + suffix, [each[suffix] for each in found]
            if ", resumed" in found[0]:
                straight, resumed = found[0][""], found[0][", resumed"]
                yield f"{name}, resumed and straight", [resumed, {part: straight[part] for part in resumed}]


def compare(checkout: Path, other: Path, cases: dict[str, Case]) -> int:
    """The exit code. Prints a line for each run: equal, or the first difference."""
    differing = 0
    with tempfile.TemporaryDirectory(prefix="same-numbers-") as scratch:
        for name, (one, another) in run([checkout, other], cases, Path(scratch)):
            both, alone = shared(one, another), count(one) + count(another)
            found = first_difference(both, shared(another, one)) if count(both) else "no value that both have"
            differing += found is not None
            apart = f"; {alone - 2 * count(both)} that one of them alone has" if alone != 2 * count(both) else ""
            print(f"{name:<40} {found or f'equal ({count(both)} values{apart})'}", flush=True)
    return int(differing > 0)


def shared(one: Result, other: Result) -> Result:
    """Those of one that the other has too: commits differ in what they record."""
    return {part: {name: named[name] for name in named if name in other.get(part, {})} for part, named in one.items()}


def count(result: Result) -> int:
    return sum(map(len, result.values()))


def record(checkout: Path, cases: dict[str, Case]) -> dict[str, Result]:
    """What may be compared with another machine's: smooth figures of float32, and no resumed runs."""
    straight = {name: replace(case, stop_at=None) for name, case in cases.items() if "precision=fp32" in case.train}
    with tempfile.TemporaryDirectory(prefix="same-numbers-") as scratch:
        return {name: comparable(result) for name, (result,) in run([checkout], straight, Path(scratch))}


def comparable(result: Result) -> Result:
    """Losses, distances, learning rates and the figures that change little when a pair or an image changes sides."""
    chosen = {part: {name: result[part][name] for name in result[part] if name.endswith(SMOOTH)} for part in result}
    return {
        part: {name: float(f"{value:.7g}") for name, value in chosen[part].items()} for part in chosen if chosen[part]
    }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", nargs="?", type=Path, metavar="OTHER_CHECKOUT")
    parser.add_argument("--record", type=Path, metavar="FILE")
    parser.add_argument("--against", type=Path, metavar="FILE")
    parser.add_argument("--only", action="append", choices=CASES, metavar="CASE", help=f"one of {', '.join(CASES)}")
    given = parser.parse_args(arguments)
    if sum(each is not None for each in (given.other, given.record, given.against)) != 1:
        parser.error("give either OTHER_CHECKOUT, --record FILE or --against FILE")
    checkout, cases = Path(__file__).resolve().parents[1], {name: CASES[name] for name in given.only or CASES}
    if given.other is not None:
        return compare(checkout, given.other.resolve(), cases)
    if given.record is not None:
        given.record.write_text(json.dumps(record(checkout, cases), indent=0) + "\n", encoding="utf-8")
        return 0
    kept = json.loads(given.against.read_text(encoding="utf-8"))
    found = record(checkout, {name: cases[name] for name in cases if name in kept})
    differences = {name: first_difference(kept[name], result, TOLERANCE) for name, result in found.items()}
    for name, difference in differences.items():
        print(f"{name:<40} {difference or 'the same within the tolerance'}")
    return int(any(differences.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
