"""Text from corpus to samples: what is given comes back, long texts are made in blocks, bounds hold on a known law."""

import json
import math
from itertools import islice

import pytest
import torch

from flowmaps.cli.config import experiment, training_parser
from flowmaps.cli.main import main
from flowmaps.cli.presets import presets
from flowmaps.configuration.parsing import parse
from flowmaps.data.text_tokens import Bytes, Characters, Letters, tokeniser
from flowmaps.fields import Batch
from flowmaps.likelihood import CrossEntropyOnly, CutOff, Scorer, score
from flowmaps.objectives import SelfDistillation
from flowmaps.samplers import Argmax, Categorical, Euler, Jumps, Renoise
from flowmaps.tasks import text as T
from flowmaps.tasks.steering import reward
from flowmaps.tasks.text_prompts import Wish, fill, fill_each, template
from flowmaps.tasks.text_quality import frontier, table
from flowmaps.tasks.text_rows import TextRows, cut, pair, stream
from flowmaps.train import Trainer

SAYING = "the quick brown fox jumps over the lazy dog and runs away "


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "sayings.txt").write_text(SAYING * 100)
    return T.Text(str(folder / "sayings.txt"), length=24, cache=str(folder / "shards"), n=16, order=4, **SMALL)


SMALL = {"width": 16, "depth": 1, "heads": 2}


def build(given=True, **options):
    torch.manual_seed(0)
    text = T.Text("nowhere", length=24, given=given, **(SMALL | options))
    text.restore({"tokeniser": {"name": "letters"}, "given": given})
    flow_map = text.build_map().eval()
    for parameter in flow_map.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return flow_map, text


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "options", [{}, {"embedding": 8}, {"embedding": 16, "tied": True, "chunk": 5}, {"clock": False}]
)
@pytest.mark.parametrize("sampler", [Jumps(1), Jumps(3), Euler(2)])
def test_prompts_suffixes_and_gaps_come_back_token_for_token(options, sampler):
    flow_map, text = build(**options)
    cases = [
        ({"prompt": "to be or "}, "to be or ", ""),
        ({"suffix": " the end"}, "", " the end"),
        ({"prompt": "once upon", "suffix": "end"}, "once upon", "end"),
        ({"infill": "it was a ____ night"}, "it was a ", " night"),
        ({"infill": "{3} was {2} a"}, "", " a"),
    ]
    for given, head, tail in cases:
        for line in text.decoded(text.sample(flow_map, 3, sampler, seeded(), **given)):
            assert line.startswith(head) and line.endswith(tail)
            assert len(line) == (24 if "infill" not in given else template(Letters(), 0, **given).length)


def test_everything_outside_gaps_is_kept():
    flow_map, text = build()
    infill = "a __ c _ e {2}"
    wanted = template(Letters(), 0, infill=infill)
    tokens = text.sample(flow_map, 4, Jumps(1), seeded(), infill=infill)
    assert torch.equal(tokens[:, wanted.known], wanted.tokens[wanted.known].expand(4, -1))
    assert (~wanted.known).sum() == 5


@pytest.mark.parametrize(("length", "overlap"), [(100, None), (61, 5), (25, 23), (60, 0)])
def test_long_texts_are_made_in_blocks(length, overlap):
    flow_map, _ = build()
    wanted = template(Letters(), length, prompt="there was ", suffix=" at last")
    tokens = fill(flow_map, Jumps(2), wanted, 2, 24, seeded(), overlap=overlap)
    assert tokens.shape == (2, length)
    assert torch.equal(tokens[:, wanted.known], wanted.tokens[wanted.known].expand(2, -1))
    assert len(tokens[~wanted.known.expand(2, -1)].unique()) > 3


def test_a_prompt_longer_than_a_window_is_continued():
    flow_map, text = build()
    prompt = SAYING.strip() + " "
    (line,) = text.decoded(text.sample(flow_map, 1, Jumps(1), seeded(), prompt=prompt, length=len(prompt) + 30))
    assert line.startswith(prompt) and len(line) == len(prompt) + 30


def test_prompts_steer_what_follows():
    flow_map, text = build()
    a, b = (text.sample(flow_map, 8, Jumps(2), seeded(), prompt=p)[:, 6:] for p in ("aaaaaa", "zzzzzz"))
    assert not torch.equal(a, b)


def test_bad_requests_get_one_clear_line():
    flow_map, text = build()
    _, plain = build(given=False)
    cases = [
        (plain, {"prompt": "to be"}, "trained with given positions"),
        (plain, {"length": 100}, "100 tokens, more than 24"),
        (text, {"prompt": "x" * 24}, "greater length"),
        (text, {"infill": "no gap"}, "has no gap"),
        (text, {"infill": "a _ b", "prompt": "c"}, "infill stands alone"),
        (text, {"length": 0}, "ask for a greater length"),
        (text, {"n": 0}, "n is 0"),
    ]
    for task, options, message in cases:
        with pytest.raises(ValueError, match=message):
            task.sample(flow_map, **({"n": 2, "sampler": Jumps(1), "generator": seeded()} | options))
    with pytest.raises(ValueError, match="temperature is -1"):
        T.Text(temperature=-1)
    with pytest.raises(ValueError, match="tied head"):
        T.build_map(27, width=16, embedding=8, tied=True)


@pytest.mark.parametrize(
    ("infill", "whole"),
    [
        (r"def my\_func(___):", "def my_func(___):"),
        (r"\_\_init\_\_{2}", "__init____"),
        (r"a\{3}_", "a{3}_"),
        (r"C:\\_", "C:\\_"),
        (r"\n_", r"\n_"),
        ("a {x} _ {3", "a {x} _ {3"),
    ],
)
def test_underscores_braces_and_backslashes_can_be_written(infill, whole):
    wanted = template(Bytes(), 0, infill=infill)
    gaps = torch.where(wanted.known, wanted.tokens, ord("_"))
    assert Bytes().decode(gaps.tolist()) == whole


def test_words_are_encoded_whole_across_an_escape():
    pytest.importorskip("tokenizers")
    alphabet = tokeniser("bpe", ["my_func and my_name " * 50], 300)
    wanted = template(alphabet, 0, infill=r"my\_func {2}")
    assert wanted.tokens[wanted.known].tolist() == alphabet.encode("my_func ").tolist()


@pytest.mark.parametrize("where", [{"prompt": "Zoë: the"}, {"suffix": "Zoë: the"}, {"infill": "Zoë: the _"}])
def test_what_the_alphabet_cannot_say_is_not_given(where):
    with pytest.raises(ValueError, match=r"alphabet characters cannot say \(Zë:\); .* bytes"):
        template(Characters("abcdefghijklmno pqrstuvwxy"), 20, **where)
    with pytest.raises(ValueError, match=r"alphabet letters cannot say \(ë\)"):
        template(Letters(), 20, **where)
    assert template(Bytes(), 20, **where).known.any()


def test_figures_and_signs_on_letters_are_not_dropped_in_silence(recwarn):
    template(Letters(), 20, prompt="To be or ")
    assert not recwarn
    with pytest.warns(UserWarning, match="'Room 101, then' is read as 'room then'"):
        template(Letters(), 20, prompt="Room 101, then")
    with pytest.raises(ValueError, match="no UTF-8"):
        template(Bytes(), 20, prompt="\udcff")


def test_a_keyword_that_the_alphabet_cannot_say_is_no_reward():
    _, text = build()
    assert reward(text, "keyword:King").name == "keyword King"
    for word in ("Müller", "1984"):
        with pytest.raises(ValueError, match=f"'{word}' has .* the alphabet letters"):
            reward(text, f"keyword:{word}")


@pytest.mark.parametrize("options", [{"infill": "a {999999999999}"}, {"infill": "{8388609}"}, {"length": 10**12}])
def test_texts_too_long_for_memory_are_refused(options):
    flow_map, text = build()
    with pytest.raises(ValueError, match="more than the limit"):
        text.sample(flow_map, 2, Jumps(1), seeded(), **options)
    with pytest.raises(ValueError, match="texts of 24 tokens needs"):
        text.sample(flow_map, 10**9, Jumps(1), seeded())


def test_seeds_reproduce_samples_and_temperature_zero_is_the_mode():
    flow_map, text = build()
    one, two = (text.sample(flow_map, 4, Jumps(2), seeded(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, text.sample(flow_map, 4, Jumps(2), seeded(4)))
    mode, cold = (text.sample(flow_map, 4, Jumps(1), seeded(3), decoder=d) for d in (Argmax(), Categorical(1e-6)))
    assert torch.equal(mode, cold)


def test_writing_texts(tmp_path):
    flow_map, text = build()
    rows = {k: text.sample(flow_map, 2, Jumps(int(k)), seeded()) for k in ("1", "2")}
    plain, lines = text.write(rows, tmp_path)
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [r["text"] for r in records] == text.decoded(rows["1"]) + text.decoded(rows["2"])
    assert records[2]["steps"] == "2" and records[2]["tokens"] == rows["2"][0].tolist()
    assert text.decoded(rows["1"])[0] in plain.read_text()


def test_a_checkpoint_needs_no_data(task):
    again = T.Text("nowhere", length=24, **SMALL)
    again.restore(json.loads(json.dumps(task.state())))
    assert again.tokeniser.size == 27 and again.build_map().state_dict().keys() == task.build_map().state_dict().keys()
    with pytest.raises(ValueError, match="'nowhere' is unknown"):
        again.train_data  # noqa: B018


def test_training_data_give_parts_and_held_out_data_do_not(task):
    batch = task.train_data.batch(torch.arange(16))
    assert batch.condition.known.any() and not batch.condition.known.all()
    assert task.valid_data.batch(torch.arange(2)).condition.known is None


def test_quality_knows_the_data_from_noise(task, tmp_path):
    noise = torch.randint(27, (16, 24), generator=seeded())
    good, bad = task.of_data(), task.quality(noise)
    assert next(iter(good)) == "judge_perplexity"
    assert good["judge_perplexity"] < 3 < 15 < bad["judge_perplexity"]
    assert good["word_validity"] == 1 and bad["word_validity"] < 0.1
    assert good["longest_match"] == 24 > 8 > bad["longest_match"]
    rows = {"data": good, "noise": bad}
    assert "judge perplexity" in table(rows) and table(rows).count("\n") == 4
    frontier(tmp_path / "f.png", {"data": [good], "noise": [bad, good]})
    assert (tmp_path / "f.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ValueError, match="no point"):
        frontier(tmp_path / "f.png", {"data": []})


def test_rows_bits_and_temperatures(task, tmp_path):
    flow_map, _ = build()
    assert list(task.rows([1, 4])) == ["1", "4", "ode128", "euler4"]
    for row in Scorer(flow_map, [CutOff(), CrossEntropyOnly()])(islice(task.scored(None), 4)):
        assert row.nats("B3") > row.nats("B1") > row.row.tokens * math.log(27), "an untrained map says nothing"
    cold, warm = task.temperatures(flow_map, Jumps(1), seeded(), (0.2, 1.0))
    assert cold["entropy"] < warm["entropy"]
    points = task.frontier(flow_map, {"1": Jumps(1)}, (0.2, 1.0), 16, 0, tmp_path / "frontier.png", task.of_data(16))
    assert [point["temperature"] for point in points["1"]] == [0.2, 1.0] and (tmp_path / "frontier.png").exists()


@pytest.mark.parametrize(("kind", "tail", "ratio"), [("letters", "", 1), ("bytes", "€é" * 400, 2 / 5)])
def test_characters_are_those_of_the_text_that_is_scored(tmp_path, kind, tail, ratio):
    (tmp_path / "a.txt").write_text("Some, words -- here. " * 900 + tail)  # the tail is all of the test part
    text = T.Text(str(tmp_path / "a.txt"), tokeniser=kind, length=10, cache=str(tmp_path / "c"), **SMALL)
    torch.manual_seed(0)
    flow_map = text.build_map().eval()
    scores = list(Scorer(flow_map, [CutOff(draws=8)])(islice(text.scored(None), 40)))
    tokens, characters = (sum(getattr(score.row, name) for score in scores) for name in ("tokens", "characters"))
    assert tokens == 400 and characters / tokens == pytest.approx(ratio, rel=0.01)
    whole = text.likelihood(flow_map, seeded(), CutOff(draws=8), 40)
    nats = torch.tensor([score.nats("B1") for score in scores])
    assert float(nats.mean()) == pytest.approx(whole.nats, abs=4 * (whole.error + float(nats.std()) / 40**0.5))


def test_rows_of_any_lengths_are_scored_together():
    flow_map, text = build()
    rows = TextRows(text.tokeniser, 24)
    pairs = [
        ("to be or not ", "to be"),
        ("to be or not ", "to"),
        ("", "that is"),
        ("so long a prompt " * 9, "ends " * 9),
    ]
    chosen = [*(rows.of_pair(*each, group="one") for each in pairs), rows.of_text("Is it? It is, " * 5, "two")]
    assert [row.tokens for row in chosen] == [5, 2, 7, 45, 59] and len(chosen[-1].windows) == 3
    together = list(Scorer(flow_map, [CutOff(draws=2)], batch=64)(chosen))
    alone = [next(iter(Scorer(flow_map, [CutOff(draws=2)], batch=1)([row]))) for row in chosen]
    assert [s.nats("B1") for s in together] == pytest.approx([s.nats("B1") for s in alone], rel=1e-4)


@pytest.mark.parametrize(("n", "known", "context"), [(100, 0, 0), (100, 0, 12), (25, 24, 0), (70, 30, 5), (7, 2, 0)])
def test_windows_score_every_token_once(n, known, context):
    tokens = torch.arange(n)
    windows = list(cut(tokens, known, 24, context))
    assert torch.equal(torch.cat([w.tokens[w.known :] for w in windows]), tokens[known:])
    assert all(
        len(w.tokens) <= 24 and torch.equal(w.tokens, w.tokens[0] + torch.arange(len(w.tokens))) for w in windows
    )
    assert all(w.known >= min(context, int(w.tokens[w.known])) for w in windows)
    if not known:
        for size in (1, 7, 100):
            parts = [part.numpy() for part in tokens.split(size)]
            streamed = list(stream(parts, 24, context))
            assert all(torch.equal(a.tokens, b.tokens) and a.known == b.known
                       for a, b in zip(streamed, windows, strict=True))  # fmt: skip


def test_texts_that_differ_are_drawn_together():
    flow_map, text = build(embedding=8)
    asked = [{"prompt": "to be or "}, {}, {"suffix": " the end"}, {"prompt": "so long a prompt " * 3}]
    wanted = [template(Letters(), 24 if i < 3 else 70, **given) for i, given in enumerate(asked)]
    wishes = [Wish(one, i, (Argmax(), Categorical())[i % 2]) for i, one in enumerate(wanted)]
    for sampler in (Jumps(2), Euler(2), Renoise(2)):
        together = fill_each(flow_map, sampler, wishes, 24, torch.device("cpu"))
        for wish, row in zip(wishes, together, strict=True):
            assert len(row) == wish.wanted.length
            assert torch.equal(row[wish.wanted.known], wish.wanted.tokens[wish.wanted.known])
            assert torch.equal(row, fill_each(flow_map, sampler, [wish], 24, torch.device("cpu"))[0])
    alone = fill(flow_map, Jumps(2), wanted[0], 1, 24, seeded(0), Argmax())
    again = fill_each(flow_map, Jumps(2), wishes[:1], 24, torch.device("cpu"))[0]
    assert torch.equal(alone[0], again), "one text by either way"


def test_one_space_between_prompt_and_answer():
    letters = Letters()
    tokens, known = pair(letters, "He said.", " Dogs bark")
    assert letters.decode(tokens) == "he said dogs bark" and letters.decode(tokens[:known]) == "he said "
    tokens, known = pair(letters, "so", "me")
    assert letters.decode(tokens) == "some" and known == 2


def test_rows_of_files(tmp_path):
    flow_map, text = build()
    lines = [{"text": "One, two."}, {"prompt": "to be ", "answer": "or"}, {"prompt": "b", "answer": "c", "group": 7}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    one, two, three = text.scored(str(tmp_path / "a.jsonl"))
    assert (one.tokens, one.characters, two.tokens) == (7, 7, 2) and len({one.group, two.group, three.group}) == 3
    assert two.group == "to be " and three.group == "7"
    for bad, said in (
        ('{"text": 3}', "line 2: .* is no row"),
        ("{", "line 2"),
        ('{"prompt": "", "answer": "3"}', "no token"),
    ):
        (tmp_path / "bad.jsonl").write_text(json.dumps(lines[0]) + "\n" + bad)
        with pytest.raises(ValueError, match=said):
            list(text.scored(str(tmp_path / "bad.jsonl")))
    with pytest.raises(ValueError, match="context is 24"):
        text.scored(None, context=24)
    _, free = build(given=False)
    with pytest.raises(ValueError, match="given: true"):
        list(free.scored(str(tmp_path / "a.jsonl")))


def test_training_end_to_end(task, tmp_path):
    objective = SelfDistillation(task.build_map(), share=0.5)
    trainer = Trainer(objective, task.train_data, task.valid_data, tmp_path, max_steps=4, batch_size=8,
                      valid_examples=8, log_every=2, validate_every=4, save_every=4, progress=False,
                      config={"state": task.state()}, tensorboard=False)  # fmt: skip
    report = trainer.fit()
    tokens = task.sample(report.flow_map, 2, Jumps(2), seeded(), prompt="the ")
    assert all(line.startswith("the ") for line in task.decoded(tokens))
    assert math.isfinite(report.metrics["valid/loss"])


def markov(K: int, n: int, length: int, generator: torch.Generator) -> tuple[torch.Tensor, float]:
    """Windows of a stationary Markov chain, and their entropy in bits per token."""
    P = torch.rand(K, K, generator=generator).pow(2).double()
    P /= P.sum(1, keepdim=True)
    start = torch.linalg.matrix_power(P, 500)[0]
    rate = -(start[:, None] * torch.special.xlogy(P, P)).sum()
    entropy = (-torch.special.xlogy(start, start).sum() + (length - 1) * rate) / length
    column = torch.multinomial(start, n, replacement=True, generator=generator)
    columns = [column]
    for _ in range(length - 1):
        column = torch.multinomial(P[column], 1, generator=generator).squeeze(1)
        columns.append(column)
    return torch.stack(columns, 1), float(entropy / math.log(2))


@pytest.mark.slow
def test_bounds_of_a_known_source_are_never_below_it_and_tight_after_training():
    g = seeded(1)
    rows, truth = markov(3, 6000, 16, g)
    torch.manual_seed(0)
    flow_map = T.build_map(3, width=48, depth=2, heads=2)
    objective = SelfDistillation(flow_map, share=1.0)
    optimizer = torch.optim.AdamW(flow_map.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 800)
    gaps = []
    for step in range(801):
        if step in (0, 50, 800):
            estimate = score(flow_map.eval(), [Batch(rows[5000:])], CutOff(draws=16), g)
            flow_map.train()
            assert estimate.bits_per_position > truth - 3 * estimate.bits_error
            gaps.append(estimate.bits_per_position / truth - 1)
        batch = Batch(rows[torch.randint(5000, (64,), generator=g)])
        optimizer.zero_grad()
        objective(batch, objective.draw(batch, g))["loss"].backward()
        optimizer.step()
        schedule.step()
    assert gaps[0] > gaps[-1] and gaps[-1] < 0.05


def command(*arguments):
    return main([str(argument) for argument in arguments])


def test_command_line(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text(SAYING * 60)
    run = tmp_path / "run"
    data = ["--task.source", tmp_path / "mine.txt", "--task.length", 24, "--task.cache", tmp_path / "shards"]
    size = ["--task.width", 16, "--task.depth", 1, "--task.n", 8, "--trainer.max_steps", 2, "--trainer.batch_size", 4]
    assert command("train", "tiny-shakespeare", "--out", run, *data, *size, "--trainer.progress", "false") == 0
    assert "samples" in capsys.readouterr().out and (run / "samples.txt").exists()
    (tmp_path / "mine.txt").unlink()  # a checkpoint samples without its data
    options = ["--steps", "1,2", "--n", 3, "--temperature", 0.7]
    assert command("sample", run, *options, "--prompt", "the lazy ", "--out", tmp_path / "a") == 0
    records = [json.loads(line) for line in (tmp_path / "a" / "samples.jsonl").read_text().splitlines()]
    assert len(records) == 6 and all(r["text"].startswith("the lazy ") for r in records)
    assert command("sample", run, "--infill", "a ___ fox", "--out", tmp_path / "b") == 0
    assert command("sample", run, "--infill", "no gap", "--out", tmp_path / "c") == 2
    assert "has no gap" in capsys.readouterr().err


TEXTS = [name for name, path in presets().items() if "tasks.text.Text" in path.read_text()]


@pytest.mark.parametrize("name", TEXTS)
def test_presets_are_experiments(name):
    p = training_parser("train", "")
    chosen = experiment(p, parse(p, [f"--config={presets()[name]}"]))
    assert isinstance(chosen.task, T.Text)
    times = chosen.config["objective"]["init_args"]["times"]
    assert times["class_path"] == "flowmaps.times.OnClock"
    assert "K:" not in presets()[name].read_text(), "the size of the alphabet follows from the data"
