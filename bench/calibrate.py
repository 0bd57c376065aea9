"""What this machine can do at best, measured in the run whose results are set against it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional


def best_s(work: Callable[[], Any], times: int = 5) -> float:
    """Shortest CPU time of this thread's process: a limit is what was reached once."""
    work()
    found = []
    for _ in range(times):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def convolution_peak(dtype: torch.dtype) -> float:
    """FLOP per CPU second of a large 3 x 3 convolution, channels last."""
    images = torch.randn(8, 256, 28, 28).to(dtype).to(memory_format=torch.channels_last)
    weight = torch.randn(256, 256, 3, 3).to(dtype).to(memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = best_s(lambda: functional.conv2d(images, weight, padding=1))
    return 2 * 8 * 28 * 28 * 256 * 256 * 9 / seconds


def copy_bandwidth() -> float:
    """Bytes copied per CPU second, one way."""
    source = np.ones(64 * 2**20, np.uint8)
    target = np.empty_like(source)
    return float(source.nbytes / best_s(lambda: np.copyto(target, source)))


def decode_s(jpegs: list[bytes]) -> float:
    """CPU seconds per image of the fastest JPEG decoder that is installed, on the benchmark's own bytes."""
    decode = fastest_decoder()
    return best_s(lambda: [decode(data) for data in jpegs]) / len(jpegs)


def fastest_decoder() -> Callable[[bytes], Any]:
    try:
        import simplejpeg

        return simplejpeg.decode_jpeg
    except ImportError:
        import cv2

        return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def resize_s(source: int = 250, target: int = 160) -> float:
    """CPU seconds per image of torch's antialiased bicubic on uint8, which keeps the reference's pixels."""
    image = torch.randint(0, 256, (1, source, source, 3), dtype=torch.uint8).permute(0, 3, 1, 2)

    def work() -> None:
        for _ in range(100):
            functional.interpolate(image, size=(target, target), mode="bicubic", antialias=True)

    return best_s(work) / 100


def calibration(jpegs: list[bytes]) -> dict[str, float]:
    """One thread. FLOP/s of fp32 and bf16 convolutions, bytes/s of a copy, seconds of a decode and of a resize."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "conv_fp32_flops": convolution_peak(torch.float32),
            "conv_bf16_flops": convolution_peak(torch.bfloat16),
            "copy_bytes_per_s": copy_bandwidth(),
            "decode_s": decode_s(jpegs),
            "resize_s": resize_s(),
        }
    finally:
        torch.set_num_threads(threads)
