"""Models to and from a hub: a stand-in of its HTTP interface on this machine, and what is said where nobody answers.

The library reads ``HF_ENDPOINT`` when it is imported, so each client is a process of its own.
"""

import json
import os
import subprocess
import sys

import pytest
import torch

import flowmaps
from flowmaps.hub import Model
from flowmaps.hub.remote import check_name, download
from flowmaps.train import CheckpointError
from hub_standin import COMMIT, Hub
from train.toys import environment


@pytest.fixture(scope="module")
def promoters():
    return flowmaps.load("promoters", device="cpu")


@pytest.fixture(scope="module")
def kept(promoters, tmp_path_factory):
    """A folder that ``save_pretrained`` wrote."""
    return promoters.save_pretrained(tmp_path_factory.mktemp("kept") / "small", licence="cc-by-4.0")


def client(address, home, code, **more):
    """Run a client of a hub: its exit code, and what it said in the end."""
    cleared = {name: value for name, value in environment().items() if "proxy" not in name.lower()}
    env = {**cleared, "HF_ENDPOINT": address, "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "cache"),
           "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
           "HF_TOKEN": "hf_of_a_test", "HF_HUB_ETAG_TIMEOUT": "3", **more}  # fmt: skip
    text = f"import flowmaps\ntry:\n    {code}\nexcept ValueError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", text], env=env, capture_output=True, text=True, timeout=240)
    return done.returncode, (done.stdout + done.stderr).strip()


def test_a_saved_model_is_whole_and_says_what_it_is(promoters, kept):
    text = (kept / "README.md").read_text()
    assert text.startswith("---\nlicense: cc-by-4.0\nlibrary_name: flowmaps\ntags:\n- flowmaps\n")
    assert "# promoters" in text and "10,738 training promoters" in text  # the card that it came with
    assert not [path for path in kept.iterdir() if path.suffix not in (".safetensors", ".json", ".md", "")]
    again = flowmaps.from_pretrained(kept, device="cpu")
    assert isinstance(again, Model) and torch.equal(again.sample(3, seed=1), promoters.sample(3, seed=1))
    with pytest.raises(ValueError, match="small is there already"):
        promoters.save_pretrained(kept)


def test_there_and_back(kept, tmp_path):
    with Hub() as hub:
        push = f"print(flowmaps.load({str(kept)!r}).push_to_hub('me/genes', licence='mit'))"
        draw = "m = flowmaps.from_pretrained('me/genes'); print(m.folder, m.sample(2, seed=5).sum().item())"
        code, said = client(hub.address, tmp_path, f"{push}; {draw}")
        address, _, first = said.rpartition("\n")
        assert code == 0 and address.endswith(f"{hub.address}/me/genes")
        sent = hub.repositories["me/genes"]
        assert sent["README.md"].startswith(b"---\nlicense: mit\n")
        assert sent["model.safetensors"] == (kept / "model.safetensors").read_bytes()
        folder, total = first.split()
        assert total == str(flowmaps.load(kept, device="cpu").sample(2, seed=5).sum().item())
        assert folder.startswith(str(tmp_path)) and not any(os.path.islink(file) for file in os.scandir(folder))
        hub.requests.clear()
        assert client(hub.address, tmp_path, draw, HF_HUB_OFFLINE="1") == (0, first) and not hub.requests
    assert client(hub.address, tmp_path, draw) == (0, first), "where nobody answers, what was fetched is enough"


MISTAKES = {
    "no model": ("from_pretrained('me/nothing')", "there is no model me/nothing at http"),
    "no revision": ("from_pretrained('me/genes', revision='v9')", "me/genes has no revision 'v9'; leave it out"),
    "not ours": (
        "from_pretrained('me/other')",
        "me/other has no config.json, state.json, SHA256SUMS",
    ),
    "damaged": ("from_pretrained('me/cut')", "is damaged (its checksum differs)"),
    "of another version": ("from_pretrained('me/new')", "it was written by flowmaps 9.1.0 and this is"),
    "may not write": ("load('promoters').push_to_hub('me/genes')", "answered 403 about me/genes"),
}


def test_mistakes_are_one_line(kept, tmp_path):
    with Hub() as hub:
        hub.put("me/genes", kept)
        hub.repositories["me/other"] = {"README.md": b"# other"}
        hub.put("me/cut", kept)
        hub.repositories["me/cut"]["model.safetensors"] = b"short"
        hub.repositories["me/new"] = of_the_future(kept, tmp_path / "new")
        hub.refused = True
        tries = "\n".join(f"attempt(lambda: flowmaps.{call})" for call, _ in MISTAKES.values())
        code = ("exec('''def attempt(call):\n    try: call()\n    except ValueError as e: print(e)\n    "
                f"else: print('no error')\n{tries}''')")  # fmt: skip
        done, said = client(hub.address, tmp_path, code)
    lines = [line for line in said.splitlines() if line]
    assert done == 0 and len(lines) == len(MISTAKES), said
    for line, (_, complaint) in zip(lines, MISTAKES.values(), strict=True):
        assert complaint in line and "Traceback" not in line


def of_the_future(kept, place):
    """A checkpoint that a later version wrote, whose network has a setting that this one does not know."""
    import shutil

    from safetensors.torch import load_file

    from flowmaps.train.checkpoint import read_config, read_state, write_folder

    shutil.copytree(kept, place)
    config, state = read_config(place), read_state(place)
    config["task"]["init_args"]["network"]["init_args"]["gears"] = 3
    state["versions"]["flowmaps"] = "9.1.0"
    weights = load_file(place / "model.safetensors")
    write_folder(place, {"model.safetensors": weights}, {"config.json": config, "state.json": state})
    return {path.name: path.read_bytes() for path in place.iterdir()}


def test_where_nobody_answers(tmp_path):
    with Hub() as hub:
        address = hub.address
    code, said = client(address, tmp_path, "flowmaps.from_pretrained('me/genes')")
    assert code == 0 and said.count("\n") == 0 and f"me/genes was not fetched before, and {address} was not" in said


def test_names(promoters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("genes", "a/b/c", "../secrets", "me/", "me/..", "https://hub.example/me/genes"):
        with pytest.raises(ValueError, match="expected owner/name"):
            check_name(name)
        with pytest.raises(ValueError, match="expected owner/name"):
            promoters.push_to_hub(name)
        with pytest.raises(CheckpointError, match="no model .* give a folder, one of .*promoters.*, or owner/name"):
            flowmaps.from_pretrained(name)
    with pytest.raises(ValueError, match="no revision 'main'"):
        flowmaps.from_pretrained("promoters", revision="main")
    with pytest.raises(CheckpointError, match="was not fetched before"):  # this suite is offline
        download("me/genes", cache_dir=tmp_path, revision=COMMIT)


def test_a_card_has_command_grids_and_numbers_and_no_path_of_this_machine(promoters):
    from flowmaps.hub.card import card, portable

    command = "flowmaps train /home/me/secret/mine.yaml --data.path=/home/me/secret/genes.fa --out runs/mine"
    config = portable({**promoters.config, "command": command})
    found = {"n": 100, "seeds": [1], "by_steps": {"1": {"frechet": 3.0, "frechet_error": 0.2}}}
    text = card("mine", promoters, config, json.loads(json.dumps(found)), "Two words.")
    assert "flowmaps train mine.yaml --data.path=genes.fa --out runs/mine" in text and "secret" not in text
    assert "| frechet | 3 ± 0.2 |" in text and "Two words." in text and "1,500 updates" in text
    assert "| 2 | 0, .75, 1" in card("qm9", pytest.importorskip("rdkit") and flowmaps.load("qm9"), config, found, None)
