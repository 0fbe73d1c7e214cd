"""How well colors can be told apart, as WCAG 2 defines it."""

import numpy as np


def luminance(colors):
    """Relative luminance of sRGB colors `[..., 3]` from 0 to 1."""
    c = np.asarray(colors, dtype=float)
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


def contrast(colors, paper):
    """The ratio, from 1 to 21, of each color to one other."""
    one, other = luminance(colors) + 0.05, luminance(paper) + 0.05
    return np.maximum(one / other, other / one)
