"""``flowmaps plan``: before a training begins, and without its data."""

import json

import pytest
import yaml

from flowmaps.cli.config import experiment
from flowmaps.cli.plan import draft_of, plan_parser
from flowmaps.cli.presets import find_preset
from flowmaps.configuration.parsing import parse
from flowmaps.planning.draft import Machine

SMALL = ("--task.network.width=64", "--task.network.depth=1", "--task.network.heads=2", "--task.embedding=64",
         "--task.length=32", "--task.vocabulary=5000", "--task.chunk=64", "--trainer.batch_size=64")  # fmt: skip


def plan(tell, *arguments):
    code, out, err = tell("plan", "openwebtext-1b7", *SMALL, "--json", *arguments)
    assert code == 0, err
    return json.loads(out)


def test_the_largest_preset_begins_without_memory_and_without_data():
    p = plan_parser()
    chosen = experiment(p, parse(p, [f"--config={find_preset('openwebtext-1b7')}"]))
    draft = draft_of(chosen, Machine())
    assert all(p.is_meta for p in draft.objective.parameters())
    assert draft.parameters()["all"] == 1_734_139_409 and draft.positions() == 1024


def test_a_plan_divides_an_update_as_the_settings_do(tell):
    found = plan(tell, "--gpus=4", "--trainer.accumulation=2", "--memory=1GB")
    assert (found["micro_batch"], found["accumulation"], found["devices"], found["sharded"]) == (8, 2, 4, False)
    assert found["fits"] and not found["overrides"]
    memory = found["memory"]
    assert memory["total"] == pytest.approx(sum(size for part, size in memory.items() if part != "total"))
    assert memory["moments"] == pytest.approx(2 * memory["weights"], rel=0.01)
    assert memory["libraries"] == 0


def test_what_must_change_changes(tell, tmp_path):
    tight = plan(tell, "--gpus=4", "--memory=30MB", "--trainer.accumulation=2")
    assert not tight["fits"]
    out = tmp_path / "fits.yaml"
    found = plan(tell, "--gpus=4", "--memory=30MB", "--trainer.accumulation=2", "--fit", f"--out={out}")
    assert found["fits"] and found["sharded"] and found["overrides"]["trainer.strategy"] == "fsdp2"
    assert found["devices"] * found["accumulation"] * found["micro_batch"] == 64
    changed = yaml.safe_load(out.read_text())["trainer"]
    assert changed == {name.split(".")[1]: value for name, value in found["overrides"].items()}


def test_time_is_operations_over_speed(tell):
    found = plan(tell, "--gpus=4", "--trainer.accumulation=2", "--flops=1T", "--utilisation=0.5", "--tokens=1M",
                 "--trainer.accelerator=cpu")  # fmt: skip
    rate = 4 * 1e12 * 0.5 / found["operations_a_position"]
    assert found["positions_a_second"] == pytest.approx(rate)
    assert found["days"] == pytest.approx(1e6 / rate / 86400)
    assert 20e6 < found["memory"]["libraries"] < 60e6  # code of products in bfloat16


@pytest.mark.parametrize(
    "arguments, words",
    [(["--memory=lots"], "expected a number above 0"), (["--gpus=0"], "at least 1"), (["--gpus=7"], "--fit"),
     (["--memory=1MB", "--fit", "--gpus=4"], "smaller network"), (["--utilisation=2"], "shares of 1")],
)  # fmt: skip
def test_mistakes_are_one_line(tell, arguments, words):
    code, _, err = tell("plan", "openwebtext-1b7", *SMALL, *arguments)
    assert code == 2 and words in err and err.count("\n") == 1
