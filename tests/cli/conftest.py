"""A tiny trained run, made once."""

import pytest

from flowmaps.cli.main import main

TINY = ("--task.width=8", "--task.lower=[16]", "--trainer.max_steps=4", "--trainer.batch_size=16",
        "--trainer.valid_examples=16", "--trainer.curves=false", "--trainer.accelerator=cpu")  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a run of four updates on digits."""
    directory = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", "--out", str(directory), *TINY]) == 0
    return directory


OF_TEXT = ("--task.tokeniser=letters", "--task.length=16", "--task.network.width=16", "--task.network.depth=1",
         "--task.network.heads=2", "--trainer.max_steps=2", "--trainer.max_seconds=null", "--trainer.batch_size=4",
         "--trainer.valid_examples=4", "--trainer.curves=false", "--trainer.accelerator=cpu")  # fmt: skip


@pytest.fixture(scope="session")
def words(tmp_path_factory):
    """The folder of a run of two updates on a text."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "words.txt").write_text("it was the best of times it was the worst of times " * 40)
    source = (f"--task.source={folder / 'words.txt'}", f"--task.cache={folder / 'shards'}")
    assert main(["train", "tiny-shakespeare", *source, *OF_TEXT, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def tell(capsys):
    """Run the command line; its exit code, standard output and standard error."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run
