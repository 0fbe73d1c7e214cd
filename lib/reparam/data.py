"""Real images that need no download: the handwritten digits that scikit-learn ships."""

from dataclasses import dataclass

import numpy as np
import sklearn.datasets
import torch
from torch import Tensor

__all__ = ["SPLIT_SEED", "Digits", "load_digits"]

#: Seed of the one split that the whole book uses, and how many images it holds out, twice.
SPLIT_SEED = 2013
HELD_OUT = 300


@dataclass(frozen=True)
class Digits:
    """Images, shape `[n, 64]` in [0, 1] with 1 for ink, and their labels 0 to 9, shape `[n]`.

    Attributes:
        train, validation, test: the images of each part.
        train_labels, validation_labels, test_labels: the digits that these show.

    Used in chapters 1, 2, 4, 6, 7 and 8 through `load_digits`.

    >>> digits = load_digits()
    >>> digits.test.shape, digits.test_labels.shape
    (torch.Size([300, 64]), torch.Size([300]))
    >>> digits.test_labels.unique()
    tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    train_labels: Tensor
    validation_labels: Tensor
    test_labels: Tensor


def load_digits(binarize: bool = True) -> Digits:
    """Load 1,797 handwritten digits of 8×8 pixels, split into 1,197, 300 and 300 images.

    They are the test set of the *Optical Recognition of Handwritten Digits* data: each pixel counts
    the inked dots, 0 to 16, in a 4×4 block of a 32×32 scan. Thirteen people wrote them. The split
    is random (`SPLIT_SEED`), so that every writer may stand on both sides: held-out figures
    speak of new digits, not of new writers.

    Args:
        binarize: if True, a pixel is 1 where at least half of its block is inked (8 of 16), else 0.
            A Bernoulli likelihood wants exactly that. If False, pixels are grey levels in
            {0, 1/16, …, 1}.

    Returns:
        float32 images and int64 labels on the CPU.

    Raises:
        TypeError: if `binarize` is not a bool.

    Used in chapters 1, 2, 4, 6, 7 and 8. Source: Alpaydin and Kaynak (1998), UCI Machine Learning
    Repository, https://doi.org/10.24432/C50P49, license CC BY 4.0, as shipped with scikit-learn.

    >>> digits = load_digits()
    >>> digits.train.shape, digits.validation.shape, digits.test.shape
    (torch.Size([1197, 64]), torch.Size([300, 64]), torch.Size([300, 64]))
    >>> digits.train.unique()
    tensor([0., 1.])
    """
    if not isinstance(binarize, bool):
        raise TypeError(f"binarize must be True or False, got {binarize!r}")
    grey, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = torch.from_numpy(grey >= 8 if binarize else grey / 16).float()
    labels = torch.from_numpy(labels).long()

    # RandomState is frozen by NumPy's compatibility policy: the split never changes.
    order = torch.from_numpy(np.random.RandomState(SPLIT_SEED).permutation(len(images)))
    parts = order.split([len(images) - 2 * HELD_OUT, HELD_OUT, HELD_OUT])
    return Digits(*(images[part] for part in parts), *(labels[part] for part in parts))
