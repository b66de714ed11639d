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


@pytest.fixture
def tell(capsys):
    """Run the command line; its exit code, standard output and standard error."""

    def run(*arguments):
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run
