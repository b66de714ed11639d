"""Pictures for people: grids of samples and curves of a run, as PNG files that appear whole or not at all."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from .files import replacing

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


def heading(name: str) -> str:
    """The title of a row of samples, which numbers of steps name.

    >>> heading("1"), heading("4"), heading("ode50")
    ('1 step', '4 steps', 'ode50')
    """
    return f"{name} step{'s' * (name != '1')}" if name.isdigit() else name


def sample_grid(
    path: str | os.PathLike, rows: Mapping[str, Tensor], levels: int, columns: int = 20, title: str = ""
) -> None:
    """Draw images side by side, one labelled row for each entry (real images last, by the caller's order).

    Arguments:
        path: PNG file to write.
        rows: Label of the row to categories ``(n, height, width)``; the first ``columns`` are shown.
        levels: Grey levels K; 0 is drawn white, K - 1 black.
        title: A line above: what to look at.
    Raises: ValueError if there is nothing to draw or the images differ in size.
    """
    shapes = {tuple(x.shape[1:]) for x in rows.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2 or min(len(x) for x in rows.values()) == 0:
        raise ValueError(
            f"rows of shapes {[tuple(x.shape) for x in rows.values()]}: give images (n, height, width) "
            "of one size, at least one per row"
        )
    columns = min(columns, max(len(x) for x in rows.values()))
    strips = [_strip(x[:columns].cpu(), columns, levels) for x in rows.values()]
    height, breadth = strips[0].shape
    head = 0.3 if title else 0.0  # inches
    figure = blank(1.2 + 0.5 * columns, head + 0.15 + 0.5 * columns * height / breadth * len(rows), dpi=120)
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, label, strip in zip(axes, rows, strips, strict=True):
        axis.imshow(strip.numpy(), cmap="gray_r", vmin=0, vmax=levels - 1, interpolation="nearest")
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=11)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    left, top = 1.1 / figure.get_figwidth(), 0.99 - head / figure.get_figheight()
    figure.subplots_adjust(left=left, right=0.995, top=top, bottom=0.01, hspace=0.05)
    figure.text(left, 0.99, title, ha="left", va="top", fontsize=10)
    save(figure, path)


def curves(path: str | os.PathLike, rows: Sequence[Mapping[str, float]], x: str = "step") -> None:
    """Draw every number of a run against ``x``, one panel for each name.

    Arguments:
        path: PNG file to write.
        rows: Records such as the lines of ``metrics.jsonl``; a name need not occur in each of them.
        x: Name of the abscissa. Values that are not finite numbers are left out.
    Raises: ValueError if no record has ``x`` and a number beside it.
    """
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != x and x in row and _is_number(value):
                series.setdefault(name, []).append((row[x], value))
    if not series:
        raise ValueError(f"{len(rows)} records hold no number beside {x!r}; train for at least one logging interval")
    figure, axes = panels(len(series), 3, 4.2, 2.8)
    for axis, (name, points) in zip(axes, series.items(), strict=True):
        axis.plot(*zip(*points, strict=True), linewidth=1.2, marker="." if len(points) < 20 else "")
        axis.set(title=name, xlabel=x)
        axis.grid(alpha=0.3)
    save(figure, path)


def point_panels(path: str | os.PathLike, rows: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Draw points side by side, one panel for each entry, all on the axes of the last one (real points).

    Arguments:
        path: PNG file to write.
        rows: Label of the panel to points ``(n, d)``; the first two coordinates are shown, one as a histogram.
        names: Of the coordinates.
    Raises: ValueError if there is nothing to draw.
    """
    _check_rows(rows)
    points = {label: x.double().cpu() for label, x in rows.items()}
    last = list(points.values())[-1]
    low, high = last.amin(0), last.amax(0)
    margin = 0.15 * torch.where(high > low, high - low, 1.0)
    low, high = (low - margin).tolist(), (high + margin).tolist()
    figure, axes = panels(len(points), 3, 3.2, 3.3)
    for axis, (label, x) in zip(axes, points.items(), strict=True):
        if x.shape[1] == 1:
            axis.hist(x[:, 0].numpy(), bins=60, range=(low[0], high[0]), density=True)
            axis.set(title=label, xlabel=names[0])
        else:
            axis.scatter(x[:, 0].numpy(), x[:, 1].numpy(), **_dots(len(x)))
            axis.set(title=label, xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel=names[0], ylabel=names[1])
    save(figure, path)


def globes(path: str | os.PathLike, rows: Mapping[str, Tensor]) -> None:
    """Draw places on maps of the Earth of equal area (Mollweide's), one for each entry.

    Arguments:
        path: PNG file to write.
        rows: Label of the map to latitudes and longitudes in degrees ``(n, 2)``.
    Raises: ValueError if there is nothing to draw.
    """
    _check_rows(rows)
    figure, axes = panels(len(rows), 2, 5.2, 2.9, projection="mollweide")
    for axis, (label, x) in zip(axes, rows.items(), strict=True):
        latitude, longitude = (x.double().cpu() * (math.pi / 180)).unbind(1)
        axis.scatter(longitude.numpy(), latitude.numpy(), **_dots(len(x)))
        axis.set(title=label, xticklabels=[], yticklabels=[])
        axis.grid(alpha=0.3)
    save(figure, path)


def discs(path: str | os.PathLike, rows: Mapping[str, Tensor]) -> None:
    """Draw points of the unit disc side by side, one panel for each entry, with its rim.

    Arguments:
        path: PNG file to write.
        rows: Label of the panel to points ``(n, 2)``.
    Raises: ValueError if there is nothing to draw.
    """
    from matplotlib.patches import Circle

    _check_rows(rows)
    figure, axes = panels(len(rows), 3, 3.2, 3.3)
    for axis, (label, x) in zip(axes, rows.items(), strict=True):
        axis.add_patch(Circle((0, 0), 1, fill=False))
        axis.scatter(x[:, 0].cpu().numpy(), x[:, 1].cpu().numpy(), **_dots(len(x)))
        axis.set(title=label, xlim=(-1.03, 1.03), ylim=(-1.03, 1.03), aspect="equal")
        axis.set_axis_off()
    save(figure, path)


def angle_panels(path: str | os.PathLike, rows: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Draw angles two by two from -180 to 180 (Ramachandran plots), a line for each entry, at most three pairs.

    Arguments:
        path: PNG file to write.
        rows: Label of the line to angles in degrees ``(n, d)``; one angle is drawn as a histogram.
        names: Of the angles.
    Raises: ValueError if there is nothing to draw.
    """
    _check_rows(rows)
    pairs = [(i, i + 1) for i in range(0, len(names) - 1, 2)][:3] or [(0, 0)]
    figure = blank(2.9 * len(pairs) + 0.4, 2.8 * len(rows), dpi=110, layout="constrained")
    lines = figure.subplots(len(rows), len(pairs), squeeze=False)
    ticks = [-180, -90, 0, 90, 180]
    for axes, (label, x) in zip(lines, rows.items(), strict=True):
        x = x.double().cpu()
        for axis, (i, j) in zip(axes, pairs, strict=True):
            if i == j:
                axis.hist(x[:, i].numpy(), bins=60, range=(-180, 180), density=True)
                axis.set(xlabel=names[i], xticks=ticks)
            else:
                axis.scatter(x[:, i].numpy(), x[:, j].numpy(), **_dots(len(x)))
                axis.set(
                    xlabel=names[i], ylabel=names[j], xticks=ticks, yticks=ticks, xlim=(-180, 180), ylim=(-180, 180)
                )
        axes[0].set_title(label, loc="left")
    save(figure, path)


def latent_plane(path: str | os.PathLike, z: Tensor, classes: Tensor, images: Tensor | None, levels: int) -> None:
    """Draw latents of two dimensions by class, and images of a grid of source points beside, if any.

    Arguments:
        path: PNG file to write.
        z: ``(n, 2)``.
        classes: ``(n,)``, from 0.
        images: Categories ``(rows, columns, height, width)``; the first row is at the top.
        levels: Grey levels K; 0 is drawn white, K - 1 black.
    """
    figure = blank(5.2 + 4.8 * (images is not None), 4.8, dpi=120, layout="constrained")
    axes = figure.subplots(1, 1 + (images is not None), squeeze=False)[0]
    dots = axes[0].scatter(*z.cpu().double().T.numpy(), c=classes.cpu().numpy(), cmap="tab10", **_dots(len(z)))
    figure.colorbar(dots, ax=axes[0], label="class")
    axes[0].set(xlabel="first latent", ylabel="second latent")
    if images is not None:
        sheet = torch.nn.functional.pad(images, (1, 1, 1, 1)).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        axes[1].imshow(sheet.cpu().numpy(), cmap="gray_r", vmin=0, vmax=levels - 1, interpolation="nearest")
        axes[1].set(xticks=[], yticks=[], title="images of a grid of source points")
    save(figure, path)


def boltzmann_panels(
    path: str | os.PathLike, rows: Mapping[str, tuple[Tensor, Tensor | None, Tensor]], names: Sequence[str]
) -> None:
    """Draw the free energy of two angles, a panel a row, and histograms of energies of all rows in the last one.

    Arguments:
        path: PNG file to write.
        rows: Label to angles in degrees ``(n, 2)``, energies in kT ``(n,)`` if they are known, and weights ``(n,)``;
            the range of the histogram is that of the first row.
        names: Of the two angles.
    Raises: ValueError if there is nothing to draw.
    """
    _check_rows({label: angles for label, (angles, _, _) in rows.items()})
    energies = {label: (u, w) for label, (_, u, w) in rows.items() if u is not None}
    figure, axes = panels(len(rows) + bool(energies), 4, 3.1, 2.9)
    ticks, square = [-180, -90, 0, 90, 180], (-180.0, 180.0, -180.0, 180.0)
    for axis, (label, (angles, _, w)) in zip(axes, rows.items(), strict=False):
        mass = torch.histogramdd(angles.double(), [60, 60], range=square, weight=w.double()).hist
        depth = (mass.max() / mass).log()
        axis.imshow(torch.where(depth <= 7, depth, math.nan).T.numpy(), origin="lower", extent=square, vmin=0, vmax=7)
        axis.set(xlabel=names[0], ylabel=names[1], xticks=ticks, yticks=ticks)
        axis.set_title(label, fontsize=9)
    if energies:
        first = next(iter(energies.values()))[0].double()
        low, high = float(first.quantile(0.001)) - 5, float(first.quantile(0.999)) + 15
        for label, (u, w) in energies.items():
            inside = (u >= low) & (u <= high)
            axes[-1].hist(u[inside].numpy(), bins=60, range=(low, high), weights=w[inside].numpy(), histtype="step",
                          label=f"{label} ({float(w[~inside].sum()):.0%} outside)")  # fmt: skip
        axes[-1].set(xlabel="u in kT", yticks=[])
        axes[-1].set_title("energies", fontsize=9)
        axes[-1].legend(frameon=False, fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    save(figure, path)


def _check_rows(rows: Mapping[str, Tensor]) -> None:
    if not rows or min(map(len, rows.values())) == 0:
        raise ValueError(f"{len(rows)} rows of points, expected one or more with at least one point each")


def _dots(n: int) -> dict[str, float]:
    """The size and strength of n points of a scatter plot."""
    return {"s": 90 / max(n, 90) ** 0.5, "alpha": max(0.25, min(1.0, 1000 / n)), "linewidths": 0}


def blank(width: float, height: float, dpi: int, layout: Literal["constrained"] | None = None) -> Figure:
    """A figure without axes, in inches. Matplotlib is imported here: it takes a third of a second."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout=layout)


def panels(
    count: int, most: int, width: float, height: float, projection: str | None = None
) -> tuple[Figure, NDArray[np.object_]]:
    """A figure of ``count`` panels of some inches, at most ``most`` in a line, and their axes."""
    columns = min(most, count)
    lines = math.ceil(count / columns)
    figure = blank(width * columns, height * lines, dpi=110, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, subplot_kw={"projection": projection}).ravel()
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with replacing(path) as temporary, open(temporary, "wb") as file:
        FigureCanvasAgg(figure).print_png(file)


def _strip(x: Tensor, columns: int, levels: int) -> Tensor:
    height, breadth = x.shape[1:]
    strip = torch.zeros(height + 2, columns * (breadth + 2))
    for i, image in enumerate(x):
        strip[1:-1, i * (breadth + 2) + 1 : (i + 1) * (breadth + 2) - 1] = image
    return strip.clamp_(0, levels - 1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
