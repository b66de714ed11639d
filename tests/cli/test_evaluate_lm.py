"""The unmodified harness on tasks of local files; its values are those of our own scorer."""

import json
import math

import pytest
import yaml

from flowmaps import hub

pytest.importorskip("lm_eval", reason="needs the extra eval, whose installation is too heavy for the suite's own")

CHOICES = [
    {"question": "it was the best of", "choices": [" times", " tines", " t"], "gold": 0},
    {"question": "it was the worst", "choices": [" fo times", " of times"], "gold": 1},
    {"question": "the age of", "choices": [" wisdom", " foolishness"], "gold": 0},
]
DRAWS = 12  # of each bound
TEXTS = [{"text": "It was the best of times, it was the worst of times."}, {"text": "The age of wisdom!"}]
TASKS = {
    "choices": {"output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}",
                "doc_to_target": "{{gold}}", "target_delimiter": "",
                "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}]},
    "cloze": {"output_type": "loglikelihood", "doc_to_text": "{{question}}", "doc_to_target": "{{choices[gold]}}",
              "target_delimiter": "", "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}]},
    "rolling": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
                "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}]},
    "generation": {"output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{choices[gold]}}",
                   "generation_kwargs": {"until": ["z"], "max_gen_toks": 6, "do_sample": False},
                   "metric_list": [{"metric": "exact_match"}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(words, tmp_path_factory):
    """The results of one run over all kinds of tasks, and the samples."""
    from flowmaps.cli.main import main

    folder = tmp_path_factory.mktemp("tasks")
    for name, settings in TASKS.items():
        rows = TEXTS if name == "rolling" else CHOICES
        data = folder / f"{name}.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)) + "\n")
        files = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
        task = {"task": name, "dataset_path": "json", "test_split": "test", "dataset_kwargs": files, **settings}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    command = ["evaluate-lm", words, "--tasks", ",".join(TASKS), "--include-path", folder, "--draws", DRAWS,
               "--out", folder / "out"]  # fmt: skip
    assert main([str(part) for part in command]) == 0
    samples = {name: [json.loads(line) for line in (folder / "out" / f"samples-{name}.jsonl").read_text().splitlines()]
               for name in TASKS}  # fmt: skip
    return json.loads((folder / "out" / "metrics.json").read_text())["results"], samples


@pytest.fixture(scope="module")
def nats(words):
    """Our own score of an answer or a text."""
    from flowmaps.likelihood import CutOff, Scorer
    from flowmaps.tasks.text_rows import TextRows

    model = hub.load(words, "cpu")
    bound = CutOff(draws=DRAWS, proposal=model.task.proposal(model.flow_map, model.generator(0)))
    rows, scorer = TextRows(model.task.tokeniser, 16, 8), Scorer(model.flow_map, [bound])

    def score(task, number, *parts):
        of = rows.of_text if len(parts) == 1 else rows.of_pair
        return next(iter(scorer([of(*parts, group=f"{task} {number}")]))).nats("B1")

    return score


def test_multiple_choice(evaluated, nats):
    results, samples = evaluated
    best = []
    for i, row in enumerate(CHOICES):
        scores = [-nats("choices", i, row["question"], choice) for choice in row["choices"]]
        told = [float(resp[0]) for resp in samples["choices"][i]["filtered_resps"]]
        assert told == pytest.approx(scores, rel=1e-4)
        best.append(max(range(len(scores)), key=scores.__getitem__) == row["gold"])
    assert results["choices"]["acc"] == pytest.approx(sum(best) / 3)
    assert results["choices"]["acc_error"] >= 0


def test_cloze(evaluated, nats):
    scores = [-nats("cloze", i, row["question"], row["choices"][row["gold"]]) for i, row in enumerate(CHOICES)]
    assert evaluated[0]["cloze"]["perplexity"] == pytest.approx(math.exp(-sum(scores) / 3), rel=1e-3)


def test_rolling_perplexity(evaluated, nats):
    texts = [row["text"] for row in TEXTS]
    total = sum(nats("rolling", i, text) for i, text in enumerate(texts))
    size = sum(len(text.encode()) for text in texts)
    assert evaluated[0]["rolling"]["bits_per_byte"] == pytest.approx(total / size / math.log(2), rel=1e-4)


def test_generation(evaluated):
    texts = [row["resps"][0][0] for row in evaluated[1]["generation"]]
    assert all("z" not in text and len(text) <= 6 for text in texts) and any(texts)


def test_greedy_is_what_the_map_gives(words):
    from lm_eval.api.instance import Instance

    from flowmaps.integrations.harness import HarnessModel

    model = HarnessModel(hub.load(words, "cpu"), steps=1)

    def instance(kind, *arguments):
        return Instance(kind, {}, arguments, 0, ("greedy", 0, 1))

    made = model.generate_until([instance("generate_until", "it was", {"max_gen_toks": 4, "do_sample": False})])[0]
    assert "  " not in made, "which letters would read as one"
    other = ("b" if made[0] == "a" else "a") + made[1:]
    found = model.loglikelihood([instance("loglikelihood", "it was", text) for text in (made, other)])
    assert [greedy for _, greedy in found] == [True, False] and all(value < 0 for value, _ in found)


def test_mistakes(words, trained, tell, tmp_path):
    code, _, err = tell("evaluate-lm", words, "--tasks", "nothing", "--include-path", tmp_path)
    assert code == 2 and "there is no task nothing" in err
    code, _, err = tell("evaluate-lm", trained, "--tasks", "nothing", "--include-path", tmp_path)
    assert code == 2 and "needs an EndpointMap of Text" in err
