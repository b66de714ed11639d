"""The logic of the page without a browser: requests in, pictures and words out."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from flowmaps.cli.main import main
from flowmaps.page import shelf as shelf_module
from flowmaps.page.answers import COMPARED, seconds, short, typed, whole
from flowmaps.page.render import page_of, refusal
from flowmaps.page.shelf import places


@pytest.fixture(scope="module")
def shelf():
    return {tab.name: tab for place in places() for tab in place.tabs}


def request(tab, **values):
    """The answer to the form as it stands at first, but for some values."""
    form = {field.name: getattr(field, "start", getattr(field, "options", [""])[0]) for field in tab.fields()}
    return tab.ask({**form, **values})


def test_numbers_have_limits():
    assert whole("n", 3.0, 1, 4) == 3 and typed("x", " 2,5 ", 0, 3) == 2.5 and typed("x", "", 0, 3) is None
    for value in (0, 5, 2.5, None, "3", True, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="n is .*expected"):
            whole("n", value, 1, 4)
    for value in ("1e9", "nan", "two"):
        with pytest.raises(ValueError, match="x is '.*', expected a number from 0 to 3"):
            typed("x", value, 0, 3)
    with pytest.raises(ValueError, match="x has 5 characters, expected at most 4"):
        short("x", "abcde", 4)
    assert seconds(0.999) == "999 ms"


def test_molecules_are_drawn_marked_and_kept(shelf):
    tab = shelf["qm9"]
    answer = request(tab, n=3, steps=2)
    assert len(answer.panels) == 3 and [row.name for row in answer.rows] == ["1 step", "2 steps", "4 steps", "8 steps"]
    assert answer.rows[1].panels[0].caption == answer.panels[0].caption, "one seed, one noise"
    assert all(row.seconds > 0 and len(row.panels) == 3 for row in answer.rows)
    valid = [panel.caption for panel in answer.panels if panel.good]
    assert answer.text.split() == valid and answer.files[0].text.count("$$$$") == len(valid)
    assert all(panel.body.startswith("<svg") and panel.mark for panel in answer.panels)
    assert request(tab, n=3, steps=2).text == answer.text and request(tab, n=3, steps=2, seed=1).text != answer.text


def test_a_scaffold_stays(shelf):
    from rdkit import Chem

    answer = request(shelf["qm9"], n=4, steps=4, scaffold="C1CO1")
    found = [panel.caption for panel in answer.panels if panel.good]
    assert len(found) == 4 == len(set(found)) and "around the scaffold" in answer.lead
    assert all(Chem.MolFromSmiles(smiles).HasSubstructMatch(Chem.MolFromSmiles("C1CO1")) for smiles in found)


def test_a_property_is_steered(shelf):
    from rdkit import Chem
    from rdkit.Chem import QED

    tab = shelf["qm9"]
    mean = lambda answer: sum(QED.qed(Chem.MolFromSmiles(s)) for s in answer.text.split()) / len(answer.text.split())  # noqa: E731
    plain, steered = request(tab, n=12), request(tab, n=12, aim="qed", strength=4)
    assert mean(steered) > mean(plain) + 0.03 and "effective sample size" in steered.lead
    assert all("QED" in panel.note for panel in steered.panels if panel.good)


def test_a_scaffold_is_drawn(shelf):
    """From a part to a molecule of the model, click by click; the drawing has a place for each atom and bond."""
    field = next(field for field in shelf["qm9"].fields() if field.name == "scaffold")
    text = ""
    for tool, place in (("bond", "part C1CO1"), ("bond", "atom 0"), ("O", "atom 0")):
        text = field.clicked(text, tool, place)
    assert text == "OC1CO1" and {"C", "N", "O", "F", "erase"} < set(field.tools)
    html = field.drawn(text, "")
    assert html.count('data-place="atom ') == 4 == html.count('data-place="bond ') and "<script" not in html
    assert "part C1CNCCN1" not in html or "part NS(=O)(=O)c1ccccc1" not in html, (
        "parts are those that the model can keep"
    )
    assert all(field.clicked("", "bond", place) for place in re.findall('data-place="(part [^"]*)"', html))
    with pytest.raises(ValueError, match="10 atoms, expected at most the 9 of the model"):
        field.clicked("CCCCCCCCC", "bond", "atom 0")
    assert 'role="alert">The scaffold &#x27;&lt;b&gt;&#x27;' in field.drawn("<b>", "")
    found = request(shelf["qm9"], n=2, steps=2, scaffold=text)
    assert "around the scaffold" in found.lead


@pytest.mark.parametrize(
    "text, tool, place, after",
    [
        ("CC", "bond", "bond 0", "C=C"),
        ("C=C", "bond", "bond 0", "C#C"),
        ("C#C", "C", "bond 0", "CC"),
        ("CO", "bond", "bond 0", "C=O"),
        ("C=O", "bond", "bond 0", "CO"),  # oxygen takes no triple bond
        ("C[O-]", "N", "atom 1", "CN"),
        ("c1cc[nH]c1", "erase", "bond 0", "C=CNC=C"),
        ("C", "erase", "atom 0", ""),
        ("CC", "ring of 3", "bond 0", "C1CC1"),
        ("C", "ring of 5", "atom 0", "CC1CCCC1"),
        ("C", "benzene", "atom 0", "Cc1ccccc1"),
        ("CC", "benzene", "bond 0", "c1ccccc1"),
        *[("c1ccccc1", "benzene", f"bond {k}", "c1ccc2ccccc2c1") for k in range(6)],
        ("OC", "bond", "part c1ccncc1", "c1ccncc1"),
    ],
)
def test_a_click_makes_what_is_meant(text, tool, place, after):
    from rdkit import Chem

    from flowmaps.page.sketch import clicked

    found = clicked(text, tool, place, 24)
    assert found == (Chem.CanonSmiles(after) if after else "")


@pytest.mark.parametrize(
    "text, tool, place, message",
    [
        ("C(F)(F)(F)F", "bond", "atom 0", "more bonds than it takes"),
        ("CCC", "erase", "atom 1", "in several parts"),
        ("CF", "bond", "bond 0", "no other order"),
        ("CC", "bond", "atom 2", "there is no 'atom 2' in the drawing"),
        ("CC", "bond", "part [U]", "there is no 'part .U.'"),
        ("", "bond", "atom 0", "there is no 'atom 0'"),
        ("CC", "saw", "atom 0", "there is no tool 'saw'"),
        ("CC", "Xx", "atom 0", "there is no tool 'Xx'"),
        ("C" * 201, "bond", "atom 0", "201 characters"),
        ("nonsense", "bond", "atom 0", "'nonsense' cannot be used"),
    ],
)
def test_a_click_that_cannot_be_is_told_why(text, tool, place, message):
    from flowmaps.page.sketch import clicked

    with pytest.raises(ValueError, match=message):
        clicked(text, tool, place, 24)


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("qm9", {"scaffold": "nonsense"}, "the scaffold 'nonsense' cannot be used"),
        ("qm9", {"scaffold": "C1CCCCCCCCCCC1"}, "12 atoms, more than the 9"),
        ("qm9", {"scaffold": "C[Si](C)C"}, "but the model knows"),
        ("qm9", {"scaffold": "C" * 201}, "201 characters"),
        ("qm9", {"n": 10**6}, "the number of samples is 1,000,000, expected 1 to 12"),
        ("qm9", {"steps": 0}, "the number of steps is 0, expected 1 to 16"),
        ("qm9", {"seed": None}, "the seed is None, expected a whole number"),
        ("qm9", {"aim": "toxicity"}, "the property is 'toxicity', expected one of none, logp"),
        ("qm9", {"aim": "qed", "target": "high"}, "the target is 'high', expected a number"),
        ("mnist", {"label": "eleven"}, "the class is 'eleven', expected 0 to 9"),
    ],
)
def test_bad_requests_are_told_what_was_expected(shelf, name, values, message):
    with pytest.raises(ValueError, match=message):
        request(shelf[name], **values)


def test_images_of_a_class(shelf):
    answer = request(shelf["mnist"], n=2, steps=1, label="7")
    assert [panel.caption for panel in answer.panels] == ["7", "7"] and len(answer.rows) == len(COMPARED)
    assert answer.rows[0].panels[0].body == answer.panels[0].body != answer.panels[1].body


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The tab of a small map of text after two updates."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "words.txt").write_text("the cat sat on the mat and the dog ran to the cat " * 100)
    sizes = ["--task.width", "16", "--task.depth", "1", "--task.heads", "2", "--task.length", "24"]
    short = ["--trainer.max_steps", "2", "--trainer.batch_size", "8", "--trainer.valid_examples", "8"]
    out = str(folder / "mine")
    assert (
        main(["train", "tiny-shakespeare", "--data.path", str(folder / "words.txt"), "--out", out, *sizes, *short]) == 0
    )
    return next(tab for place in places([out]) for tab in place.tabs if tab.name == "mine")


def test_text_keeps_what_is_given(written):
    answer = request(written, n=2, steps=2, prompt="the cat")
    assert len(answer.panels) == 2 and all("<b>the cat</b>" in panel.body for panel in answer.panels)
    assert all(line.startswith("the cat") and len(line) == 24 for line in answer.text.rstrip("\n").split("\n\n"))
    filled = request(written, n=1, steps=1, gaps="a {5} dog", temperature=0)
    assert filled.panels[0].body.count("<b>") == 2 and filled.text[:2] == "a " and filled.text[7:11] == " dog"


@pytest.mark.parametrize(
    "values, message",
    [
        ({"prompt": "the", "gaps": "a _"}, "leave one of them empty"),
        ({"gaps": "no gap"}, "has no gap; write _"),
        ({"gaps": "a {99999}"}, "the gaps have 99,999 tokens, expected at most 512"),
        ({"prompt": "zażółć"}, "cannot say"),
        ({"prompt": "cat" * 20}, "60 tokens, the text 24"),
        ({"temperature": -1}, "the temperature is -1, expected a number from 0 to 2"),
    ],
)
def test_texts_that_cannot_be_written(written, values, message):
    with pytest.raises(ValueError, match=message):
        request(written, **values)


def test_dna_keeps_what_is_given(shelf):
    answer = request(shelf["promoters"], n=2, steps=1, label="human TATA", given="ACGT{200}TATAAA")
    lines = answer.text.split("\n")
    assert lines[0] == ">1 human TATA" and lines[1].startswith("ACGT") and lines[1][204:210] == "TATAAA"
    assert "<u>" in answer.panels[0].body or "no TATA box" in answer.panels[0].note
    assert [len(row.panels) for row in answer.rows] == [2, 2, 2, 2]
    for values, message in (({"given": "HELLO"}, "HELLO"), ({"label": "yeast"}, "no class 'yeast'")):
        with pytest.raises(ValueError, match=message):
            request(shelf["promoters"], **values)


def test_places_on_the_globe(shelf):
    answer = request(shelf["earthquakes"], n=20, steps=2)
    rows = [tuple(map(float, line.split(","))) for line in answer.text.split("\n")[1:-1]]
    assert len(rows) == 20 and all(abs(a) <= 90 and abs(b) <= 180 for a, b in rows) and "20 places" in answer.lead
    assert answer.panels[0].body.startswith("<img") and len(answer.rows) == 4


def test_an_absent_model_is_one_line(monkeypatch):
    monkeypatch.setattr(shelf_module, "packaged", lambda name: None)
    empty = {place.title: place for place in places()}
    assert all(place.tabs == [] and len(place.missing) == 1 for place in empty.values())
    assert "No model of text comes with this package; `flowmaps demo RUN`" in empty["Text"].missing[0]


def test_an_extra_that_is_missing_is_one_line(monkeypatch):
    error = ModuleNotFoundError("no module", name="rdkit.Chem")
    monkeypatch.setattr(shelf_module, "find_spec", lambda name: None)
    assert shelf_module.why(error).endswith("pip install 'flowmaps[molecules]'")
    with pytest.raises(ImportError):
        shelf_module.why(ImportError("a fault", name="flowmaps.page"))


def test_users_at_one_time_do_not_disturb_each_other(shelf):
    asked = [(shelf["qm9"], {"n": 2, "steps": 2, "seed": k}) for k in range(3)]
    asked += [(shelf["promoters"], {"n": 1, "steps": 2, "seed": k}) for k in range(3)]
    alone = [request(tab, **values).text for tab, values in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        together = [future.result().text for future in [pool.submit(request, tab, **values) for tab, values in asked]]
    assert together == alone and len(set(alone)) == 6


def test_what_users_typed_is_escaped():
    assert "<script>" not in refusal("<script>alert(1)</script>") and "&lt;script&gt;" in refusal("<script>")


def test_an_answer_is_one_piece_of_html(shelf):
    html = page_of(request(shelf["qm9"], n=2, steps=1))
    assert html.count("fm-row-name") == 4 and 'download="molecules.sdf"' in html and html.count("<svg") == 10


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--port", "70000"], "port is 70000, expected 0 to 65535"),
        (["--host", "203.0.113.7"], "cannot listen at 203.0.113.7"),
        (["no/such/run"], "no/such/run"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments, message, capsys):
    assert main(["demo", "--no-browser", *arguments]) == 2
    assert message in capsys.readouterr().err
