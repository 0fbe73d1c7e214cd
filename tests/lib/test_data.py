"""The digits: real, split once and for all, binarized as stated."""

import dataclasses
import hashlib

import numpy as np
import pytest
import sklearn.datasets
import torch

from reparam.data import HELD_OUT, load_digits


def rows(images: torch.Tensor) -> list[tuple]:
    return sorted(map(tuple, images.tolist()))


def test_the_split_is_a_partition_of_all_images():
    digits = load_digits(binarize=False)
    together = torch.cat([digits.train, digits.validation, digits.test])
    original = torch.from_numpy(sklearn.datasets.load_digits().data / 16).float()
    assert rows(together) == rows(original)
    assert len(digits.validation) == len(digits.test) == HELD_OUT


def test_labels_stay_with_their_images():
    digits = load_digits(binarize=False)
    original = sklearn.datasets.load_digits()
    label_of = {tuple(x): int(y) for x, y in zip(original.data / 16, original.target, strict=True)}
    for part in ("train", "validation", "test"):
        images, labels = getattr(digits, part), getattr(digits, f"{part}_labels")
        assert [label_of[tuple(x)] for x in images.double().tolist()] == labels.tolist()


def test_half_a_block_of_ink_is_the_threshold():
    grey, binary = load_digits(binarize=False), load_digits()
    assert torch.equal(binary.train, (grey.train >= 0.5).float())
    assert (grey.train == 0.5).any()  # so that the side of the boundary is tested, too


def test_the_split_never_changes():
    """Stored results rest on it: this checksum holds on every platform and NumPy."""
    digits = load_digits()
    content = b"".join(
        part.numpy().astype(np.uint8).tobytes()
        for part in (digits.train, digits.validation, digits.test)
    )
    assert hashlib.sha256(content).hexdigest()[:16] == "584b538d7e051b22"


def test_types_and_immutability():
    digits = load_digits()
    assert digits.train.dtype == torch.float32 and digits.train_labels.dtype == torch.int64
    with pytest.raises(dataclasses.FrozenInstanceError):
        digits.train = None


def test_every_part_has_every_digit_and_loading_draws_no_randomness():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    digits = load_digits()
    assert torch.equal(state, torch.get_rng_state())
    for labels in (digits.train_labels, digits.validation_labels, digits.test_labels):
        assert labels.bincount(minlength=10).min() >= 15


@pytest.mark.parametrize("binarize", [None, 1, "yes"])
def test_bad_input(binarize):
    with pytest.raises(TypeError, match="True or False"):
        load_digits(binarize)
