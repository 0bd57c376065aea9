"""Which devices there are, whether the chosen one computes in the types it offers, and how fast."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.nn import functional

from facenet.devices.accelerator import Accelerator
from facenet.devices.cores import threads_of
from facenet.devices.table import (
    DTYPES,
    DeviceChoice,
    Precision,
    device_count,
    devices_present,
    offered_precisions,
    sound_halves,
)
from facenet.errors import UserError
from facenet.tasks import auto, probe
from facenet.tools.doctor.report import Report

LONG_ENOUGH_S = 0.02  # a single call that is worth timing
TIMED_S = 0.1
MONITOR_S = 20.0
# In the head of the monitors' tables: "Driver Version: 550.127.05", "SDAADriver: 1.1.2b1   SDAARuntime: 1.1.2b0".
VERSION = re.compile(r"(Driver|Runtime)(?: Version)?: *(\S+)")


def check_devices(report: Report, asked: str) -> str | None:
    """The device that would train, None where there is none."""
    with report.finding("devices", "reinstall the device's plugin for this torch, or remove it", blocks=True):
        found, chosen = devices_present(), None
        with report.finding("accelerator", "run with accelerator=auto", blocks=True):
            chosen, _ = DeviceChoice(name=asked).resolve()
        for name, reason in found.items():
            count = device_count(name) if reason is None else 0
            text = reason or f"{count} present{', taken' if name == chosen else ''}"
            report.fact("devices", name, text, {"count": count, "taken": name == chosen, "reason": reason})
        return chosen
    return None


def check_device(report: Report, name: str) -> bool:
    """Whether it computes in float32, the type that every run needs somewhere."""
    works = False
    for dtype in offered_precisions(name):
        base = dtype == "fp32"
        fix = "free the device, check its driver, or run with another accelerator" if base else "precision=fp32"
        with (
            report.finding(f"{dtype} on {name}", fix, blocks=base),
            Accelerator.start(DeviceChoice(name=name), Precision(dtype=dtype)) as accelerator,  # type: ignore[arg-type]
            torch.inference_mode(),
        ):
            if base:
                describe(report, accelerator)
            report.fact("speed", dtype, *speed(accelerator, compute(accelerator)))
            works = works or base
    if works:
        with report.finding("auto", "name precision= and optimizer.bf16= yourself"):
            check_choice(report, probe.probe_or_recall(name, threads_of(1), keep=False), sound_halves(name))
    return works


def check_choice(report: Report, found: probe.Probe, halves: Sequence[str]) -> None:
    """Says what `auto` takes here, and whether what a recipe may ask for instead is slow."""
    choice = auto.choice_of(found, halves)
    report.fact("auto", "precision", f"{choice.precision}: {choice.precision_why}", choice.precision)
    report.fact("auto", "optimizer.bf16", f"{str(choice.update).lower()}: {choice.update_why}", choice.update)
    for what in auto.slow(found, halves):
        report.problem(what, "precision=auto and optimizer.bf16=auto leave it out")


def describe(report: Report, accelerator: Accelerator) -> None:
    report.fact("device", "torch_device", str(accelerator.device))
    for key, text in accelerator.describe().items():
        report.fact("device", key, text)
    if monitor := accelerator.row.monitor:
        versions = ask_monitor(monitor) or {"driver": f"unknown: {monitor} does not tell"}
        for key, text in versions.items():
            report.fact("device", key, text)
    total, free = accelerator.memory().total, accelerator.ask("mem_get_info", lambda pair: int(pair[0]))
    if total is not None:
        left = "" if free is None else f", {free / 1e9:.1f} free"
        report.fact("device", "memory", f"{total / 1e9:.1f} GB{left}", {"total": total, "free": free})


def ask_monitor(program: str) -> dict[str, str]:
    """Versions of driver and runtime that a monitor prints; torch does not know them."""
    try:
        said = subprocess.run([program], capture_output=True, text=True, timeout=MONITOR_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return {name.lower(): version for name, version in VERSION.findall(said)}


def compute(accelerator: Accelerator) -> str:
    """The type of a product under autocast. Raises UserError when its type or value is wrong."""
    dtype, ones = accelerator.precision.dtype, torch.ones(64, 64, device=accelerator.device)
    with accelerator.autocast():
        product = ones @ ones
    if product.dtype != DTYPES[dtype] or not bool((product == 64).all()):
        raise UserError(f"precision={dtype}: a product of ones is {product[0, 0].item():g} in {product.dtype}, not 64")
    return str(product.dtype).removeprefix("torch.")


def speed(accelerator: Accelerator, autocast: str) -> tuple[str, dict[str, Any]]:
    """TFLOP/s of a matrix product and a 3 x 3 convolution in the precision's type, as text and values."""
    dtype, device = DTYPES[accelerator.precision.dtype], accelerator.device

    def matmul(size: int) -> tuple[Callable[[], Any], float]:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        return lambda: a @ b, 2.0 * size**3

    def convolution(images: int) -> tuple[Callable[[], Any], float]:
        kernel = torch.randn(64, 64, 3, 3, device=device).to(dtype)
        maps = torch.randn(images, 64, 40, 40, device=device).to(dtype, memory_format=torch.channels_last)
        return lambda: functional.conv2d(maps, kernel, padding=1), 2.0 * images * 40 * 40 * 64 * 64 * 9

    products = tflops(accelerator, matmul, (256 << step for step in range(6)))
    convolutions = tflops(accelerator, convolution, (4 << step for step in range(7)))
    text = f"autocast {autocast}, matmul {products:.3g} TFLOP/s, convolution {convolutions:.3g} TFLOP/s"
    return text, {"autocast": autocast, "matmul_tflops": products, "convolution_tflops": convolutions}


def tflops(
    accelerator: Accelerator, make: Callable[[int], tuple[Callable[[], Any], float]], sizes: Iterable[int]
) -> float:
    """Measures at the first size that takes long enough, or the last; `make` gives the work of a size and its operations."""
    duration, work, operations = 0.0, lambda: None, 0.0
    for size in sizes:
        work, operations = make(size)
        probe.time_calls(work, accelerator)  # a first call also picks kernels and allocates
        duration = probe.time_calls(work, accelerator)
        if duration > LONG_ENOUGH_S:
            break
    repeats = max(1, int(TIMED_S / duration))
    return repeats * operations / probe.time_calls(work, accelerator, repeats) / 1e12
