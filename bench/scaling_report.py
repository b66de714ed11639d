"""Tables, the fitted curve and the picture of the studies of scale."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flowmaps.files import replacing, write_text
from records import over_seeds
from scaling_fit import UNIT, Fitted, Row, envelope, fitted, forecasts, of, points, without_a_size

# -- tables ----------------------------------------------------------------------------------------------------------


def pm(values: Sequence[float], digits: int = 3) -> str:
    """Mean and, of several values, standard deviation."""
    return over_seeds(values, f".{digits}f", f".{digits}f")


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines)] + [""]


def of_times(rows: Sequence[Row]) -> list[str]:
    lines = []
    names = list(dict.fromkeys(row["name"] for row in rows))
    reference = {True: "pairs", False: "decode-rate clock, tempered"}
    for name in names:
        runs = [row for row in rows if row["name"] == name]
        base = {r["seed"]: r for r in rows if r["name"] == reference[name.startswith("pairs")]}
        gaps = [
            r["cross_entropy"]["clock"] - base[r["seed"]]["cross_entropy"]["clock"] for r in runs if r["seed"] in base
        ]
        samples = [cell(runs, key) for key in ("1", "4", "euler8")]
        losses = [pm([r["cross_entropy"][key] for r in runs]) for key in ("clock", "uniform")]
        lines.append([name, str(len(runs)), pm([r["updates"] for r in runs], 0), losses[0],
                      pm(gaps) if gaps and any(gaps) else "0", losses[1], *samples])  # fmt: skip
    head = ["times or weights", "seeds", "updates", "loss on the clock", "against the reference, paired",
            "loss at uniform times", "1 jump", "4 jumps", "Euler 8"]  # fmt: skip
    return table(head, lines)


def cell(runs: Sequence[Row], key: str) -> str:
    """Words in per cent, judge perplexity, entropy of one sampler."""
    if key not in runs[0]["samples"]:
        return ""
    found = [row["samples"][key] for row in runs]
    words = pm([100 * x["words"] for x in found], 1)
    return f"{words} / {pm([x['perplexity'] for x in found], 1)} / {pm([x['entropy'] for x in found], 2)}"


def of_sizes(rows: Sequence[Row]) -> list[str]:
    head = ["weights", "width, depth", "updates", "operations", "loss at the end", "1 jump", "4 jumps"]
    return table(head, [
        [f"{r['weights']:,}", f"{r['width']}, {r['depth']}", str(r["updates"]), f"{r['flops'] * r['updates']:.2g}",
         f"{r['points'][-1]['cross_entropy']:.3f}", cell([r], "1"), cell([r], "4")]
        for r in sorted(rows, key=lambda row: row["weights"])])  # fmt: skip


def of_fit(f: Fitted) -> list[str]:
    spread = np.quantile(np.array(f.others), [0.05, 0.95], axis=0)
    names = ("L_inf", "a", "b")
    values = [f"{n} = {v:.3f} ({a:.3f} to {b:.3f})" for n, v, a, b in zip(names, f.law, *spread, strict=True)]
    held, (value, low, high) = f.held, f.at(f.held.compute)
    lines = [f"Fit to {len(f.best)} points of {f.best[0].compute:.2g} to {f.best[-1].compute:.2g} operations, C in "
             f"{UNIT:.0e}: {', '.join(values)}; 5 and 95 % marks of {len(f.others)} refits.", "",
             f"Held back: at {held.compute:.2g} operations the fit says {value:.3f} ({low:.3f} to {high:.3f}; all laws "
             "below {:.3f} to {:.3f}), ".format(*f.span(held.compute)) +
             f"found {held.loss:.3f} (width {held.width}).", ""]  # fmt: skip
    far = [[f"{C:.0e}", f"{f.at(C)[0]:.3f}", *("{:.3f} to {:.3f}".format(*x) for x in (f.at(C)[1:], f.span(C)))]
           for C in (10 * held.compute, 100 * held.compute)]  # fmt: skip
    return [*lines, *table(["operations", "loss, extrapolated", "5 to 95 % of refits", "by all laws below"], far)]


def of_predictions(rows: Sequence[Row], f: Fitted) -> list[str]:
    """How fits miss points that they did not have."""
    found = points(rows)
    weights = {row["width"]: row["weights"] for row in of(rows, "sizes")}
    lines = [[f"{weights[width]:,}", str(len(m.values)), f"{m.reach:.2g}", f"{m.rms:.3f}",
              f"{min(m.values):+.3f} to {max(m.values):+.3f}", f"{law[0]:.3f}", f"{law[2]:.2f}"]
             for width, (m, law) in without_a_size(found).items()]  # fmt: skip
    head = ["weights left out", "points", "their most compute over that of the others", "predictive error",
            "found minus predicted", "L_inf", "b"]  # fmt: skip
    text = ["Predictive error, leaving a size out: root mean square of what a fit to the envelope of the others "
            "misses.", "", *table(head, lines)]  # fmt: skip
    by_reach, laws = forecasts(envelope(found))
    lines = [[f"up to {m.reach:g} times", str(len(m.values)), f"{m.rms:.3f}",
              f"{min(m.values):+.3f} to {max(m.values):+.3f}"] for m in by_reach]  # fmt: skip
    floors = [law[0] for law in laws]
    return [*text, f"Predictive error of {len(laws)} fits to the points of least compute, by how far beyond the most "
            f"of theirs a point lies; their L_inf is {min(floors):.3f} to {max(floors):.3f}.", "",
            *table(["compute beyond the fit's", "points", "predictive error", "found minus predicted"], lines),
            "Without a floor, L = a C^-b through the last decade of the envelope: a = {1:.3f}, b = {2:.4f}.".format(
                *f.other_laws[-1]), ""]  # fmt: skip


def of_far(rows: Sequence[Row], f: Fitted) -> list[str]:
    """What the fit says of the model of the package."""
    lines = []
    for row in rows:
        value, low, high = f.at(row["compute"])
        least, most = f.span(row["compute"])
        lines += [f"Beyond all of these, the model `{row['model']}` of the package ({row['weights']:,} weights, about "
                  f"{row['compute']:.2g} operations, batches of 64, the rate let down, both stages): the fit, "
                  f"extrapolated, says {value:.3f} (refits {low:.3f} to {high:.3f}, all laws {least:.3f} to "
                  f"{most:.3f}), found {row['cross_entropy']:.3f}. One jump {cell([row], '1')}, four "
                  f"{cell([row], '4')}.", ""]  # fmt: skip
    return lines


def of_rates(rows: Sequence[Row]) -> list[str]:
    factors = sorted({row["factor"] for row in rows})
    lines = []
    for (width, moved), runs in curves(rows).items():
        found = {row["factor"]: f"{row['cross_entropy']:.3f}" for row in runs}
        best = min(found, key=lambda factor: found[factor])
        cells = [f"**{found[f]}**" if f == best else found.get(f, "") for f in factors]
        lines.append([f"{width}", f"{runs[0]['weights']:,}", "by width" if moved else "as they are", *cells])
    return table(["width", "weights", "rates", *(f"x {factor:g}" for factor in factors)], lines)


def curves(rows: Sequence[Row]) -> dict[tuple[int, bool], list[Row]]:
    keys = dict.fromkeys((row["width"], row["transferred"]) for row in sorted(rows, key=lambda row: row["width"]))
    return {key: sorted((r for r in rows if (r["width"], r["transferred"]) == key), key=lambda r: r["factor"])
            for key in keys}  # fmt: skip


def of_drift(rows: Sequence[Row]) -> list[str]:
    lines = [[f"{r['width']}", f"{r['weights']:,}", "by width" if r["transferred"] else "as they are",
              f"{r['logits']:.3f}", f"{r['cross_entropy']:.3f}"] for r in rows]  # fmt: skip
    return table(["width", "weights", "rates", "deviation of the logits after 4 updates", "loss"], lines)


# -- picture ---------------------------------------------------------------------------------------------------------


def drawn(rows: Sequence[Row], path: Path) -> None:
    figure = Figure(figsize=(15, 8), layout="constrained")
    axes = figure.subplots(2, 3).flatten()
    panels = {"sizes": (_sizes, _words), "rates": (_rates,), "drift": (_drift,), "times": (_times,)}
    panels |= {"longer": (_times,)} if of(rows, "longer") else {}
    for axis in axes[sum(map(len, panels.values())) :]:
        axis.set_axis_off()
    chosen = iter(axes)
    for study, makes in panels.items():
        for make in makes:
            make(next(chosen), rows if study == "sizes" else of(rows, study))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=70, format="png")


def _sizes(axis: Axes, rows: Sequence[Row]) -> None:
    f, found = fitted(rows), points(rows)
    weights = {row["width"]: row["weights"] for row in of(rows, "sizes")}
    for width in sorted(weights):
        own = [point for point in found if point.width == width]
        axis.plot([p.compute for p in own], [p.loss for p in own], ".-", lw=1, label=f"{weights[width] / 1e6:.2g} M")
    inside = np.geomspace(f.best[0].compute, f.best[-1].compute)
    outside = np.geomspace(f.best[-1].compute, 100 * f.held.compute)
    axis.plot(inside, [f.at(C)[0] for C in inside], "k", lw=2, label="fit")
    axis.plot(outside, [f.at(C)[0] for C in outside], "k--", lw=1, label="extrapolated")
    marks = np.array([f.at(C)[1:] for C in outside])
    axis.fill_between(outside, marks[:, 0], marks[:, 1], color="k", alpha=0.12, lw=0)
    spans = np.array([f.span(C) for C in outside])
    axis.fill_between(outside, spans[:, 0], spans[:, 1], color="k", alpha=0.06, lw=0, label="all laws")
    axis.plot([f.held.compute], [f.held.loss], "k*", ms=12, label="held back")
    for row in of(rows, "far"):
        axis.plot([row["compute"]], [row["cross_entropy"]], "kD", label=f"model {row['model']}")
    axis.set(xscale="log", xlabel="operations", ylabel="held-out loss (nats)", title="Loss against compute",
             ylim=(f.span(outside[-1])[0] - 0.02, 1.5))  # fmt: skip
    axis.legend(fontsize=8)


def _words(axis: Axes, rows: Sequence[Row]) -> None:
    """Of the ends of all trainings, by their weights, and of the model of the package."""
    runs = [(row["flops"] * row["updates"], row) for row in of(rows, "sizes")]
    runs += [(row["compute"], row) for row in of(rows, "far")]
    for steps in ("1", "4"):
        words, error = ([100 * row["samples"][steps][key] for _, row in runs] for key in ("words", "words_error"))
        axis.errorbar(
            [C for C, _ in runs], words, error, fmt="o", capsize=3, label=f"{steps} jump{'s' * (steps != '1')}"
        )
    for C, row in runs:
        axis.annotate(f"{row['weights'] / 1e6:.2g} M", (C, 100 * row["samples"]["4"]["words"]), fontsize=8)
    axis.set(xscale="log", xlabel="operations", ylabel="words that are words (%)", title="Few steps against compute")
    axis.legend(loc="upper left")


def _rates(axis: Axes, rows: Sequence[Row]) -> None:
    widths = sorted({row["width"] for row in rows})
    for (width, moved), runs in curves(rows).items():
        colour = f"C{widths.index(width)}"
        label = f"{width} ({runs[0]['weights'] / 1e6:.2g} M){', by width' if moved else ''}"
        losses = [row["cross_entropy"] for row in runs]
        axis.plot([row["factor"] for row in runs], losses, "s--" if moved else "o-", color=colour, label=label)
    low = min(row["cross_entropy"] for row in rows)
    axis.set(xscale="log", xlabel="multiple of the rates", ylabel="held-out loss (nats)", ylim=(low - 0.01, low + 0.25),
             title="Rates over widths")  # fmt: skip
    axis.legend(fontsize=7, loc="upper right")


def _drift(axis: Axes, rows: Sequence[Row]) -> None:
    first = min(row["width"] for row in rows)
    for moved, style in ((False, "o-"), (True, "s--")):
        runs = [row for row in rows if row["transferred"] == moved or row["width"] == first]
        label = "rates by width" if moved else "rates as they are"
        axis.plot([r["weights"] for r in runs], [r["logits"] for r in runs], style, label=label)
    axis.set(xscale="log", yscale="log", xlabel="weights", ylabel="deviation of the logits",
             title="How far four updates move the logits")  # fmt: skip
    axis.legend()


def _times(axis: Axes, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(row["name"] for row in rows))[::-1]
    for y, name in enumerate(names):
        found = [row["cross_entropy"]["clock"] for row in rows if row["name"] == name]
        axis.plot(found, [y] * len(found), "o", alpha=0.7)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    title = "At six times the budget" if rows[0]["study"] == "longer" else "Times and weights, equal processor time"
    axis.set(xlabel="held-out loss on the clock (nats)", title=title)


SECTIONS = {"times": of_times, "longer": of_times, "sizes": of_sizes, "rates": of_rates, "drift": of_drift}


def write(rows: Sequence[Row], out: Path) -> None:
    """The tables beside the rows, and the picture."""
    found = {key: sorted({str(row[key]) for row in rows if key in row}) for key in ("date", "commit", "seed")}
    setting = (f"{', '.join(found['date'])}, one core of an {platform.machine()} CPU, bfloat16, torch "
               f"{torch.__version__}, commits {', '.join(found['commit'])}, seeds {', '.join(found['seed'])}; mean ± "
               "deviation over seeds. Samples: words % / judge perplexity / entropy (nats), 256 of each.")  # fmt: skip
    text = ["# Times, weights, rates and sizes", "", setting, "", "![The studies of scale](scaling.png)", ""]
    for study, make in SECTIONS.items():
        if own := of(rows, study):
            heading = {"longer": "Times, at six times the budget"}.get(study, study.capitalize())
            text += [f"## {heading}", "", f"`python bench/scaling.py {study}`", "", *make(own)]
            if study == "sizes":
                f = fitted(rows)
                text += [*of_fit(f), *of_far(of(rows, "far"), f), *of_predictions(rows, f)]
    write_text(out.with_suffix(".md"), "\n".join(text).rstrip() + "\n")
    drawn(rows, out.with_suffix(".png"))
