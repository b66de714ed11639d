"""One training at a time writes into a folder, dead holders are told from living ones, and a lost folder is noticed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowmaps.train import CheckpointError
from flowmaps.train.folder import LOCK, Holder, Lock, check_free, taken
from flowmaps.train.logs import read_records
from train.test_resume import records
from train.toys import Pairs, assert_equal_bits, environment, tensors_of, trainer

HOLD = "import sys; from pathlib import Path; from flowmaps.train.folder import Lock; held = Lock(Path(sys.argv[1]))"


@pytest.fixture
def elsewhere(tmp_path):
    """Another process that holds the folder."""
    other = subprocess.Popen(
        [sys.executable, "-c", f"{HOLD}; print(flush=True); sys.stdin.read()", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    other.stdout.readline()
    yield other
    other.kill()
    other.wait()


def test_a_second_training_is_refused_and_told_who_trains(tmp_path, elsewhere):
    with pytest.raises(CheckpointError, match=rf"is in use by process {elsewhere.pid} on '{os.uname().nodename}'"):
        trainer(tmp_path).fit()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK], "nothing else was written"
    with pytest.raises(CheckpointError, match="is in use"):
        check_free(tmp_path)
    elsewhere.kill()
    elsewhere.wait()
    assert trainer(tmp_path, max_steps=4).fit().step == 4, "a dead process holds nothing"
    assert not (tmp_path / LOCK).exists()


def test_two_trainings_in_one_process_exclude_each_other(tmp_path):
    held = Lock(tmp_path)
    with pytest.raises(CheckpointError, match=f"in use by process {os.getpid()} "):
        trainer(tmp_path).fit(resume=True)
    held.release()
    held.release()
    trainer(tmp_path, max_steps=4).fit()


def forge(folder: Path, age: float, **changes) -> None:
    """A lock that another process left, last touched ``age`` seconds ago."""
    here = {"host": "node7", "machine": "elsewhere", "process": 17, "started": "1"}
    (folder / LOCK).write_text(json.dumps({**here, **changes}))
    os.utime(folder / LOCK, (time.time() - age,) * 2)


def test_a_holder_on_another_machine_lives_as_long_as_it_shows_signs_of_life(tmp_path):
    forge(tmp_path, 20)
    with pytest.raises(CheckpointError, match=r"by process 17 on 'node7'.* sign of life (19|2\d) s ago, and counts as"):
        Lock(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    for age in (400, -4000):
        forge(tmp_path, age)
        Lock(tmp_path).release()
        assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\0" * 99, "[" * 5000, '{"host": 1}', "x" * 10**6])
def test_a_lock_that_says_nothing_holds_nothing(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    Lock(tmp_path).release()


def test_a_lock_of_this_machine_is_the_kernels_affair(tmp_path):
    here = Holder.here()
    forge(tmp_path, 0, **here._asdict())
    Lock(tmp_path).release()
    assert here.lives(age=1e9, kernel=False), "without the kernel's locks its list of processes tells"
    assert not here._replace(started="0").lives(age=0, kernel=False), "the number was given to another process"
    assert not here._replace(process=2**22 + 1).lives(age=0, kernel=False)


def test_the_lock_is_no_way_out_of_the_folder(tmp_path):
    (tmp_path / "precious").write_text("x")
    for make in (lambda place: place.symlink_to(tmp_path / "precious"), os.mkfifo, os.mkdir):
        folder = tmp_path / "run"
        folder.mkdir()
        make(folder / LOCK)
        with pytest.raises(CheckpointError, match="cannot write|no regular file"):
            Lock(folder)
        shutil.rmtree(folder)
    assert (tmp_path / "precious").read_text() == "x"


class Disturbing(Pairs):
    """Data that do something to the run's folder when batch number ``at`` is asked for."""

    def __init__(self, at: int, deed):
        super().__init__()
        self.at, self.deed = at, deed

    def batch(self, index):
        self.at -= 1
        if self.at == 0:
            self.deed()
        return super().batch(index)


def replaced(folder: Path) -> None:
    """Another folder in the place of the run's."""
    folder.rename(folder.with_name("old"))
    (folder / "checkpoint").mkdir(parents=True)


@pytest.mark.parametrize(
    ("deed", "told"),
    [
        (shutil.rmtree, r"was removed"),
        (lambda folder: folder.rename(folder.with_name("elsewhere")), r"was renamed to .*elsewhere"),
        (replaced, r"was renamed to .*old"),
        (lambda folder: shutil.rmtree(folder.parent), r"was removed"),
    ],
    ids=["removed", "renamed", "replaced", "parent removed"],
)
@pytest.mark.parametrize("at", [18, 29], ids=["record is next", "checkpoint is next"])
def test_a_lost_folder_is_noticed_and_nothing_is_lost(tmp_path, deed, told, at):
    settings = {"log_every": 5 if at == 18 else 100}
    unbroken = trainer(tmp_path / "unbroken", **settings).fit()
    place = tmp_path / "runs" / "lost"
    with pytest.raises(CheckpointError, match=told) as raised:
        trainer(place, data=Disturbing(at, lambda: deed(place)), **settings).fit()
    rescue = place.with_name("lost-rescued-1")
    assert re.search(rf"up to update {20 if at == 18 else 30} are in {rescue}; continue", str(raised.value))
    assert sorted(path.name for path in rescue.iterdir()) == ["checkpoint", "metrics.csv", "metrics.jsonl"]
    resumed = trainer(rescue, **settings).fit(resume=True)
    assert_equal_bits(tensors_of(unbroken.checkpoint), tensors_of(resumed.checkpoint))
    assert records(tmp_path / "unbroken") == records(rescue)


def test_records_that_are_removed_are_written_anew(tmp_path, caplog):
    for at in (2, 10):
        run = tmp_path / str(at)
        trainer(run, data=Disturbing(at, lambda run=run: (run / "metrics.jsonl").unlink())).fit()
        assert [row["step"] for row in read_records(run / "metrics.jsonl")] == sorted([*range(4, 41, 4), 10, 30])
    assert "written anew" in caplog.text


def test_a_lock_that_is_removed_is_taken_again(tmp_path):
    trainer(tmp_path, data=Disturbing(2, (tmp_path / LOCK).unlink)).fit()
    assert taken(tmp_path) == "step-00000040" and not (tmp_path / LOCK).exists()


def test_a_folder_that_another_training_took_over_is_left_to_it(tmp_path):
    run = tmp_path / "run"
    with pytest.raises(CheckpointError, match="run was taken over by another training .* are in .*run-rescued-1"):
        trainer(run, data=Disturbing(2, lambda: forge(run, 0))).fit()
    assert (tmp_path / "run-rescued-1" / "checkpoint" / "step-00000004").is_dir()
    assert not any((run / "checkpoint").iterdir())
