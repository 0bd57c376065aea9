from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from facenet.data.transforms import Augment, Preprocess, mirror
from facenet.errors import UserError

Pixels = NDArray[np.uint8]


def smooth(height: int, width: int) -> Pixels:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([127 + 100 * np.sin(y / 17), 127 + 100 * np.cos(x / 13), (x + y) % 200], axis=2).astype(np.uint8)


def pillow_letterbox(image: Pixels, height: int, width: int) -> Pixels:
    """The reference's steps on Pillow."""
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = Image.fromarray(image).resize(
        (int(image.shape[1] * scale), int(image.shape[0] * scale)), Image.Resampling.BICUBIC
    )
    canvas = Image.new("RGB", (width, height), (128, 128, 128))
    canvas.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return np.asarray(canvas)


def test_letterbox_of_a_96x112_crop_has_the_references_bars() -> None:
    fitted = Preprocess(size=[160, 160])(np.zeros((112, 96, 3), np.uint8))
    grey = (fitted == 128).all(axis=(0, 2))
    assert fitted.shape == (160, 160, 3)
    assert np.flatnonzero(~grey)[[0, -1]].tolist() == [
        11,
        147,
    ]
    assert (fitted[:, 11:148] == 0).all()


@pytest.mark.parametrize("shape", [(112, 96), (250, 250), (90, 300), (160, 160), (1, 40)])
def test_letterbox_agrees_with_pillow(shape: tuple[int, int]) -> None:
    image = smooth(*shape)
    if shape == (1, 40):
        assert Preprocess(size=[20, 20])(image).shape == (20, 20, 3)  # Pillow cannot scale to zero rows
        return
    difference = np.abs(Preprocess(size=[160, 160])(image).astype(int) - pillow_letterbox(image, 160, 160))
    assert difference.max() <= 2
    assert difference.mean() < 0.1


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resize_stretches_as_pillow_does(interpolation: str) -> None:
    image = smooth(160, 120)
    expected = np.asarray(Image.fromarray(image).resize((96, 112), Image.Resampling[interpolation.upper()]))
    fitted = Preprocess(size=[112, 96], fit="resize", interpolation=interpolation)(image)  # type: ignore[arg-type]
    assert fitted.shape == (112, 96, 3)
    assert np.abs(fitted.astype(int) - expected).max() <= 2


def test_centre_crop_covers_the_frame_and_keeps_the_middle() -> None:
    image = np.arange(20, dtype=np.uint8)[None, :, None].repeat(10, axis=0).repeat(3, axis=2)  # value = column
    assert Preprocess(size=[10, 10], fit="centre_crop")(image)[0, :, 0].tolist() == list(range(5, 15))
    assert Preprocess(size=[10, 4], fit="centre_crop")(image)[0, :, 0].tolist() == [8, 9, 10, 11]
    for shape in ((7, 13), (13, 7), (5, 50), (3, 3)):
        assert Preprocess(size=[11, 9], fit="centre_crop")(smooth(*shape)).shape == (11, 9, 3)


def test_crop_keeps_a_share_around_the_centre_before_fitting() -> None:
    image = smooth(160, 160)
    assert np.array_equal(Preprocess(size=[80, 80], fit="resize", crop=0.5)(image), image[40:120, 40:120])


@pytest.mark.parametrize("fit", ["letterbox", "resize", "centre_crop"])
def test_the_right_size_passes_unchanged_and_contiguous(fit: Any) -> None:
    image = smooth(32, 24)
    image.flags.writeable = False
    fitted = Preprocess(size=[32, 24], fit=fit)(image[:, ::1])
    assert np.array_equal(fitted, image)
    assert fitted.flags.c_contiguous


def test_normalize_values_layout_and_memory() -> None:
    images = torch.tensor([[[[0, 51, 255], [255, 0, 102]]]], dtype=torch.uint8)  # (1, 1, 2, 3)
    plain = Preprocess(size=[1, 2]).normalize(images)
    assert plain.shape == (1, 3, 1, 2)
    assert plain.dtype == torch.float32
    torch.testing.assert_close(plain[0, :, 0], torch.tensor([[0, 1.0], [0.2, 0], [1, 0.4]]))
    own = Preprocess(size=[1, 2], mean=[0.5, 0.0, 0.1], std=[0.5, 1.0, 0.2]).normalize(images)
    torch.testing.assert_close(own[0, :, 0], torch.tensor([[-1, 1.0], [0.2, 0], [4.5, 1.5]]))
    big = torch.randint(0, 256, (4, 8, 6, 3), dtype=torch.uint8)
    kept = big.clone()
    normal = Preprocess(size=[8, 6]).normalize(big)
    assert normal.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(big, kept)
    torch.testing.assert_close(normal, big.permute(0, 3, 1, 2) / 255)


def test_preprocess_survives_as_plain_values() -> None:
    made = Preprocess(size=[112, 96], fit="centre_crop", crop=0.9, mean=[0.5] * 3, std=[0.25] * 3)
    assert Preprocess(**made.as_dict()) == made
    assert all(isinstance(value, (list, str, float)) for value in made.as_dict().values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": [160]}, {"size": [0, 10]}, {"crop": 0.0}, {"crop": 1.5}, {"mean": [0.5]}, {"std": [1.0, 0.0, 1.0]},
        {"fit": "pad"}, {"interpolation": "nearest"},
    ],
)  # fmt: skip
def test_wrong_preprocessing_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"preprocess\.{next(iter(wrong))}"):
        Preprocess(**{"size": [8, 8], **wrong})


def test_mirror() -> None:
    image = smooth(5, 7)
    assert np.array_equal(mirror(image), image[:, ::-1])
    assert np.array_equal(mirror(image[::-1, 1:5]), image[::-1, 1:5][:, ::-1])


def test_flip_happens_in_the_wanted_share_and_by_key() -> None:
    image = smooth(4, 4)
    augment = Augment(flip=0.3)
    flipped = [
        not np.array_equal(augment(image, key=(0, 0, 0, step, slot, 1)), image)
        for step in range(100)
        for slot in range(40)
    ]
    assert abs(np.mean(flipped) - 0.3) < 0.03
    assert np.array_equal(Augment()(image, key=(1,)), image)
    assert not np.array_equal(Augment(flip=1.0)(image, key=(1,)), image)


@pytest.mark.parametrize("flip", [-0.1, 1.1])
def test_wrong_flip(flip: float) -> None:
    with pytest.raises(UserError, match=r"augment\.flip"):
        Augment(flip=flip)


@pytest.fixture(scope="module")
def noise() -> Callable[[], Augment]:
    """A pipeline that draws from both of albumentations' generators."""
    albumentations = pytest.importorskip("albumentations")

    def make() -> Augment:
        parts = [albumentations.GaussNoise(std_range=(0.05, 0.3), p=1.0), albumentations.CoarseDropout(p=1.0)]
        return Augment(flip=0.5, pipeline=parts)

    return make


def test_every_part_of_the_key_changes_the_drawing(noise: Callable[[], Augment]) -> None:
    """(seed, epoch, rank, batch, slot, index): albumentations by itself repeats over workers that start from one state,
    and over epochs.
    """
    augment, image = noise(), smooth(16, 16)
    keys = list(product(range(2), repeat=6))
    assert len({augment(image, key=key).tobytes() for key in keys}) == len(keys) == 64


def test_equal_keys_draw_equally_in_any_object_order_and_thread(noise: Callable[[], Augment]) -> None:
    image = smooth(16, 16)
    keys = [(0, 1, 0, step, slot, 7) for step in range(8) for slot in range(8)]
    first = noise()
    expected = [first(image, key=key).tobytes() for key in keys]
    second = noise()
    assert [second(image, key=key).tobytes() for key in reversed(keys)] == expected[::-1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda key: first(image, key=key).tobytes(), keys)) == expected


def test_the_library_alone_would_couple_its_transforms() -> None:
    """Why Augment hands one generator to the whole pipeline: seeded by its own method, two transforms with p = 0.5 act
    on the same images.
    """
    albumentations = pytest.importorskip("albumentations")
    image = np.full((8, 8, 3), 100, np.uint8)
    image[:, :4] = 50

    def acted(changed: Pixels) -> tuple[bool, bool]:
        left, right = int(changed[0, 0, 0]), int(changed[0, -1, 0])
        return left > right, max(left, right) > 128  # mirrored, inverted

    def parts() -> list[Any]:
        return [albumentations.HorizontalFlip(p=0.5), albumentations.InvertImg(p=0.5)]

    alone = albumentations.Compose(parts())
    coupled = set()
    for seed in range(40):
        alone.set_random_seed(seed)
        coupled.add(alone(image=image)["image"].tobytes())
    assert len(coupled) == 2  # none or both
    augment = Augment(pipeline=parts())
    assert len({augment(image, key=(number,)).tobytes() for number in range(40)}) == 4


def test_the_input_is_not_changed(noise: Callable[[], Augment]) -> None:
    image = smooth(16, 16)
    image.flags.writeable = False
    before = image.copy()
    noise()(image, key=(1,))
    assert np.array_equal(image, before)


@pytest.mark.cold
def test_without_a_pipeline_albumentations_is_never_imported() -> None:
    code = (
        "import sys, numpy; from facenet.data.transforms import Augment;"
        "Augment(flip=1.0)(numpy.zeros((4, 4, 3), numpy.uint8), key=(1,));"
        "assert not {'albumentations', 'cv2', 'torchvision'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
