"""`torch.sdaa`: the device module, in the shape of `torch.cuda`; of its names those that torch itself, facenet and its tests call."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from . import _C

default_generators = tuple(_C.default_generator(index) for index in range(_C.device_count()))
device_count, current_device = _C.device_count, _C.current_device
_exchange_device = _maybe_exchange_device = _C.exchange_device


def _index(device=None):
    if device is None:
        return current_device()
    if isinstance(device, int):
        return device
    device = torch.device(device)
    if device.type != "sdaa":
        raise ValueError(f"expected an sdaa device, got {device}")
    return current_device() if device.index is None else device.index


# devices


def is_available():
    return device_count() > 0


def is_initialized():
    return True


def _lazy_init():
    pass


def _is_in_bad_fork():
    return False


def set_device(device):
    _C.exchange_device(_index(device))


class device:
    def __init__(self, device):
        self.index = -1 if device is None else _index(device)

    def __enter__(self):
        self.before = _C.exchange_device(self.index)

    def __exit__(self, *exc):
        _C.exchange_device(self.before)


def get_device_name(device=None):
    return f"Simulated SDAA {_index(device)}"


def get_device_properties(device=None):
    return SimpleNamespace(name=get_device_name(device), total_memory=_C.total_memory())


def synchronize(device=None):
    _C.synchronize()


# random numbers


def manual_seed(seed):
    default_generators[current_device()].manual_seed(int(seed))


def manual_seed_all(seed):
    for generator in default_generators:
        generator.manual_seed(int(seed))


def get_rng_state(device="sdaa"):
    return default_generators[_index(device)].get_state()


def set_rng_state(new_state, device="sdaa"):
    default_generators[_index(device)].set_state(new_state)


def get_rng_state_all():
    return [generator.get_state() for generator in default_generators]


def set_rng_state_all(new_states):
    for generator, state in zip(default_generators, new_states, strict=True):
        generator.set_state(state)


# memory


def memory_allocated(device=None):
    return _C.memory(_index(device))[0]


def max_memory_allocated(device=None):
    return _C.memory(_index(device))[1]


def reset_peak_memory_stats(device=None):
    _C.reset_peak_memory(_index(device))


def mem_get_info(device=None):
    return max(0, _C.total_memory() - memory_allocated(device)), _C.total_memory()


def empty_cache():
    pass


# mixed precision


def get_amp_supported_dtype():
    return [torch.float16, torch.bfloat16]


def is_bf16_supported():
    return True
