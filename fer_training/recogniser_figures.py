# SPDX-License-Identifier: Apache-2.0
"""Pictures of what image recognisers look at: heat maps, intensity weights, landmarks they found.

Needs matplotlib; draws without a screen and without its global state. Texts are shown as they
are, a dollar sign begins no formula.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fer_perception.evaluation.figures import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    new_figure,
    share_legend,
)

FACE_INCHES = 1.7  # side of a face in a figure
HEAT_OPACITY = 0.7  # of a heat of 1; a heat of 0 is not seen
SKY = '#56b4e9'
# Of eyebrows, eyes, nose, mouth and jaw, as in the part-based ensemble's figures 4 and 10.
PART_COLOURS = (BLUE, GREEN, SKY, ORANGE, PINK)


def plot_heat_map(
    axes: Axes, image: np.ndarray, heat: np.ndarray | None = None, *, title: str = ''
) -> None:
    """Draw a face and, where given, a heat map over it.

    image: (H, W, 3) uint8 RGB; heat: (H, W), 0 to 1. Raises ValueError for another size of heat.
    """
    axes.imshow(image)
    if heat is not None:
        if heat.shape != image.shape[:2]:
            raise ValueError(f'the heat is of {heat.shape}, but the image of {image.shape[:2]}')
        opacity = HEAT_OPACITY * np.clip(heat, 0.0, 1.0)
        axes.imshow(heat, cmap='inferno', vmin=0.0, vmax=1.0, alpha=opacity)
    axes.set_axis_off()
    axes.set_title(title, fontsize='small', parse_math=False)


def grad_cam_figure(
    images: np.ndarray, maps: np.ndarray, *, members: Sequence[str], titles: Sequence[str]
) -> Figure:
    """Draw a row for each face: the image, the map of each member over it, and their union.

    images: (N, H, W, 3) uint8 RGB; maps: (N, M, H, W), each 0 to 1; titles: (N,) of the images.
    A single member needs no union.
    """
    if maps.shape[:2] != (len(images), len(members)) or len(titles) != len(images):
        raise ValueError(
            f'{len(images)} images need as many titles, not {len(titles)}, and maps of '
            f'{len(members)} members, not {maps.shape}'
        )
    names = [*members, *(['union'] if len(members) > 1 else [])]
    columns = 1 + len(names)
    figure = new_figure(
        width=FACE_INCHES * columns, height=(FACE_INCHES + 0.3) * len(images), rows=len(images),
        columns=columns,
    )
    panels = iter(figure.axes)
    for image, own, title in zip(images, maps, titles, strict=True):
        plot_heat_map(next(panels), image, title=title)
        heats = [*own, *([own.max(0)] if len(members) > 1 else [])]
        for name, heat in zip(names, heats, strict=True):
            plot_heat_map(next(panels), image, heat, title=name)
    return figure


def plot_intensity_weights(
    axes: Axes, weights: Mapping[str, np.ndarray], *, title: str = ''
) -> None:
    """Draw the intensity weights of the frames through a sigmoid (FER-GCN, figure 4).

    weights: (T,) for each name, which the legend shows.
    """
    for index, (name, values) in enumerate(weights.items()):
        steps = np.arange(1, len(values) + 1)
        # A name with a leading underscore would be missing in a legend.
        axes.plot(steps, 1.0 / (1.0 + np.exp(-values)), 'o-', markersize=4,
                  color=COLOURS[index % len(COLOURS)], label=name.lstrip('_'))
    axes.axhline(0.5, color=GREY, linestyle='--', linewidth=1)  # of a weight of 0
    axes.set(xlabel='step in the sequence', ylabel='sigmoid of the intensity weight')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    for text in axes.legend(fontsize='small').get_texts():
        text.set_parse_math(False)
    axes.set_title(title or 'Expression intensity', parse_math=False)


def plot_found_landmarks(
    axes: Axes, image: np.ndarray, found: Mapping[str, np.ndarray], *, title: str = ''
) -> None:
    """Draw landmarks over a face, those of each member in a colour of its own.

    image: (H, W, 3) uint8 RGB; found: (P, 2) in sides of the image, for each member.
    """
    height, width = image.shape[:2]
    axes.imshow(image)
    for index, (name, points) in enumerate(found.items()):
        pixels = points * (width, height) - 0.5  # the middle of the first pixel is 0
        axes.plot(*pixels.T, '.', color=PART_COLOURS[index % len(PART_COLOURS)], markersize=4,
                  label=name)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))  # y downwards
    axes.set_axis_off()
    axes.set_title(title, fontsize='small', parse_math=False)


def localization_figure(
    images: np.ndarray, rows: Mapping[str, Mapping[str, np.ndarray]]
) -> Figure:
    """Draw faces side by side, below each other what was found when (part-based ensemble, IV-B).

    images: (N, H, W, 3) uint8 RGB; rows: by moment and member the landmarks (N, P, 2) in sides of
    the image.
    """
    figure = new_figure(
        width=max(3 * FACE_INCHES, FACE_INCHES * len(images)),
        height=(FACE_INCHES + 0.2) * len(rows) + 0.4,
        rows=len(rows),
        columns=len(images),
    )
    panels = iter(figure.axes)
    for moment, found in rows.items():
        for index, image in enumerate(images):
            own = {member: points[index] for member, points in found.items()}
            plot_found_landmarks(next(panels), image, own, title='' if index else moment)
    share_legend(figure, columns=len(PART_COLOURS))
    return figure
