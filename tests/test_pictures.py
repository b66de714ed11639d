"""Pictures are whole PNGs that show what they were given."""

import numpy as np
import pytest
import torch
from PIL import Image

from flowmaps.files import replacing, write_json
from flowmaps.pictures import curves, sample_grid


def test_grid_shows_dark_and_light_images(tmp_path):
    path = tmp_path / "new" / "samples.png"
    sample_grid(path, {"1 step": torch.zeros(3, 8, 8).long(), "real": torch.full((9, 8, 8), 16)}, levels=17, columns=4)
    grey = np.asarray(Image.open(path).convert("L"))
    upper, lower = grey[: len(grey) // 2, -100:], grey[len(grey) // 2 :, -100:]
    assert upper.min() > 200 and (lower < 50).mean() > 0.5
    assert [file.name for file in path.parent.iterdir()] == ["samples.png"]


@pytest.mark.parametrize(
    "rows", [{}, {"a": torch.zeros(2, 4, 4), "b": torch.zeros(2, 5, 5)}, {"a": torch.zeros(0, 4, 4)}]
)
def test_grid_refuses(tmp_path, rows):
    with pytest.raises(ValueError, match="one size"):
        sample_grid(tmp_path / "a.png", rows, levels=2)
    assert not list(tmp_path.iterdir())


def test_curves_of_uneven_records(tmp_path):
    rows = [{"step": i, "loss": 1 / (i + 1), "time": "12:00"} for i in range(50)] + [
        {"step": 10, "valid": float("nan")}
    ]
    curves(tmp_path / "curves.png", rows)
    assert Image.open(tmp_path / "curves.png").size[0] > 300
    with pytest.raises(ValueError, match="logging interval"):
        curves(tmp_path / "none.png", [{"step": 1}])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
