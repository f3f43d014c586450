"""`mtl compare` and `mtl report`: what is trained and what is reused, the answer, the page in a
browser without network, refusals."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.pinned import FORMAT
from tests.warm import mtl

SMALL = [
    *("-cd", "my_conf", "task=[stars,grade]", "sampling=all", "data.max_length=32"),
    *("model=tiny", "model.hidden=16", "model.heads=1", "model.layers=1"),
    *("runner.steps=4", "runner.eval_every=2", "runner.batch_size=8", "logger.every=2"),
    *("runner.device=cpu", "runner.threads=1", FORMAT),
]
STARS = """\
# @package tasks.stars
type: classification
source:
  files: {train: rows.csv, validation: rows.csv}
columns: {text: review, label: stars}
labels: [bad, good]
metrics: [accuracy, group_exact_match]
group: shop
"""
GRADE = """\
# @package tasks.grade
type: regression
source:
  files: {train: rows.csv, validation: rows.csv}
columns: {text: review, label: grade}
range: [0, 5]
"""
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def make_tasks(place: Path) -> None:
    """Two tasks on 30 reviews of 10 shops."""
    (place / "my_conf" / "task").mkdir(parents=True)
    (place / "my_conf" / "task" / "stars.yaml").write_text(STARS)
    (place / "my_conf" / "task" / "grade.yaml").write_text(GRADE)
    lines = ["review,stars,grade,shop"]
    for row in range(30):
        good = row * 7 % 3 > 0
        words = f"{'fine' if good else 'poor'} {['shoes', 'hats', 'bags'][row % 3]} </script> {row}"
        lines.append(f"{words},{'good' if good else 'bad'},{row % 6},shop {row % 10}")
    (place / "rows.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder below which two methods have been compared with the baseline, with two seeds."""
    place = tmp_path_factory.mktemp("compare")
    make_tasks(place)
    options = ("sharing=hard", "weighting=static,pcgrad", "--seeds", "2", "run_dir=out")
    done = mtl("compare", *SMALL, *options, cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 runs in out, 6 of them to train" in done.stdout
    (place / "said.txt").write_text(done.stdout)
    return place


def runs(folder: Path) -> dict[str, Path]:
    """The runs of the comparison by method and seed."""
    found = {}
    for path in (folder / "out").iterdir():
        if path.is_dir():
            found[re.sub(r"_[0-9a-f]{8}$", "", path.name)] = path
    return found


def test_the_answer_in_words(folder: Path) -> None:
    said = (folder / "said.txt").read_text()
    assert "hard static (2 seeds) against none (2 seeds)" in said
    assert "hard pcgrad (2 seeds) against none (2 seeds)" in said
    for column in ("gain", "95% interval", "p (Holm)", "verdict", "peak MB", "TFLOP", "Delta-m"):
        assert column in said
    assert "they cover rows and seeds" in said and "groups of stars" in said
    assert "correction for 4 comparisons" in said
    assert said.index("gains over none (2 seeds)") < said.index("hard static (2 seeds) against")
    assert re.search(r"hard static is .* none on the average of 2 tasks \(.* points", said)
    assert (folder / "out" / "report.html").is_file()
    # The scores of the table are the means over seeds of what the runs have written.
    found = runs(folder)
    mean = [
        json.loads((found[f"none_seed-{seed}"] / "results.json").read_text())["tasks"]["grade"]
        for seed in (0, 1)
    ]
    assert f"{sum(each['main'] for each in mean) / 2:.4f}" in said


def test_the_same_command_trains_nothing_and_more_seeds_train_the_rest(folder: Path) -> None:
    options = ("sharing=hard", "weighting=static,pcgrad", "--seeds", "2", "run_dir=out")
    before = {path: (path / "results.json").stat().st_mtime_ns for path in runs(folder).values()}
    done = mtl("compare", *SMALL, *options, cwd=folder)
    assert done.returncode == 0 and "6 runs in out, 0 of them to train" in done.stdout
    tables = done.stdout[done.stdout.index("hard static (2 seeds)") :]
    assert tables in (folder / "said.txt").read_text(), "a report says the same each time"
    assert {path: (path / "results.json").stat().st_mtime_ns for path in before} == before


def test_the_same_settings_in_other_words_are_found_again(folder: Path) -> None:
    names = {path.name for path in runs(folder).values()}
    # Another order, a default that is written out, another form of a number and of a path, and
    # what does not change a run.
    other = [word for word in SMALL[2:] if word != "runner.steps=4"]
    more = ("runner.steps=+4", "optim.clip=1", "logger.console=plain", "sharing=hard")
    words = ("-cd", str(folder / "my_conf"), "weighting=static", *reversed(other), *more)
    options = ("--seeds", "2", "run_dir=./out", "--to", "other.html")
    done = mtl("compare", *words, *options, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 runs in out, 0 of them to train" in done.stdout
    assert "hard, seed 0: has finished (hard_weighting-static_seed-0_" in done.stdout
    assert {path.name for path in runs(folder).values()} == names


def test_a_run_that_was_stopped_goes_on_and_a_finished_run_is_a_candidate(
    folder: Path, tmp_path: Path
) -> None:
    found = runs(folder)
    shutil.copytree(folder / "out", tmp_path / "out")
    stopped = tmp_path / "out" / found["none_seed-0"].name
    status = json.loads((stopped / "status.json").read_text())
    (stopped / "status.json").write_text(json.dumps(status | {"status": "interrupted"}))
    shutil.rmtree(stopped / "checkpoints" / "step_00000004")
    shutil.rmtree(stopped / "predictions")
    make_tasks(tmp_path)
    candidate = str(found["hard_weighting-pcgrad_seed-0"])
    done = mtl("compare", candidate, *SMALL, "--seeds", "1", "run_dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 run in out, 1 of them to train" in done.stdout
    assert "none, seed 0: goes on" in done.stdout and "hard (1 seed) against none" in done.stdout
    assert "the intervals cover the validation rows only" in done.stdout
    assert json.loads((stopped / "results.json").read_text())["average"] == pytest.approx(
        json.loads((found["none_seed-0"] / "results.json").read_text())["average"], abs=0
    )


def test_equal_compute_gives_a_costly_method_fewer_steps(folder: Path, tmp_path: Path) -> None:
    make_tasks(tmp_path)
    options = ("sharing=mmoe", "sharing.experts=8", "--seeds", "1", "--equal", "compute")
    baseline = ("--baseline", str(runs(folder)["none_seed-0"]))
    done = mtl("compare", *SMALL, *options, *baseline, "run_dir=equal", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "measured by runs of one step" in done.stdout and "not trained on as many" in done.stdout
    (run,) = (path for path in (tmp_path / "equal").iterdir() if path.name.startswith("mmoe"))
    costs = [
        json.loads((path / "results.json").read_text())["cost"]["flops_per_example"]
        for path in (runs(folder)["none_seed-0"], run)
    ]
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()]
    assert steps[-1] == max(1, round(4 * costs[0] / costs[1])) < 4


def test_predictions_that_are_not_of_the_results_are_refused(folder: Path, tmp_path: Path) -> None:
    found = runs(folder)
    changed = tmp_path / "changed"
    shutil.copytree(found["hard_weighting-static_seed-0"], changed)
    file = changed / "predictions" / "grade.jsonl"
    lines = file.read_text().splitlines()
    other = json.loads(lines[3])
    lines[3] = json.dumps(other | {"score": other["score"] + 1})
    file.write_text("\n".join(lines) + "\n")
    options = ("--baseline", str(found["none_seed-0"]))
    done = mtl("report", str(changed), *options)
    assert done.returncode == 2
    assert "the predictions have pearson" in done.stderr and str(file) in done.stderr
    command = re.search(r"write them again: mtl (.*)", done.stderr)
    assert command is not None
    # What the message proposes mends it, and puts in the texts, which the page then shows.
    again = mtl(*command[1].split(), "--texts", cwd=folder)
    assert again.returncode == 0, again.stderr
    done = mtl("report", str(changed), *options, "--to", str(tmp_path / "p.html"))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "p.html").read_text()
    assert "shoes &lt;/script&gt;" in page.partition("Hardest rows")[2]
    assert page.count("</script>") == 3, "text of users ends no script"


def test_damaged_files_of_a_run_are_named(folder: Path, tmp_path: Path) -> None:
    found = runs(folder)
    # The folder's name has a space, for which the proposed commands need quotes.
    changed = tmp_path / "a run"
    shutil.copytree(found["hard_weighting-static_seed-0"], changed)
    results = json.loads((changed / "results.json").read_text())
    edited = json.loads(json.dumps(results))
    edited["tasks"]["grade"]["main"] = 0.99
    texts = json.loads(json.dumps(results))
    texts["tasks"]["grade"]["metrics"]["pearson"] = "high"
    unnamed = json.loads(json.dumps(results))
    del unnamed["tasks"]["grade"]["main_metric"]
    cases = [
        ("results.json", json.dumps(edited), f"--predictions '{changed}/predictions'"),
        ("results.json", json.dumps(texts), "does not hold the results of a run"),
        ("results.json", json.dumps(unnamed), "does not hold the results of a run"),
        ("results.json", json.dumps(results | {"cost": None}), "does not hold the results of"),
        ("results.json", json.dumps(results | {"tasks": []}), f"mtl train \"resume='{changed}'\""),
        ("results.json", "{", f"mtl train \"resume='{changed}'\""),
        ("predictions/grade.jsonl", b"\xff\xfe\n", "a line that is no prediction"),
        ("metrics.jsonl", "garbage\n", "move the file away"),
    ]
    for name, content, expected in cases:
        file = changed / name
        before = file.read_bytes()
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        done = mtl("report", str(changed), "--baseline", str(found["none_seed-0"]))
        assert done.returncode == 2, (name, content, done.stdout, done.stderr)
        assert expected in done.stderr, (name, content, done.stderr)
        file.write_bytes(before)
    # What has finished is read before what is missing is trained.
    file = found["hard_weighting-static_seed-0"] / "results.json"
    before = file.read_bytes()
    file.write_text("{")
    options = ("sharing=hard", "weighting=static,pcgrad", "--seeds", "9", "run_dir=out")
    done = mtl("compare", *SMALL, *options, cwd=folder)
    file.write_bytes(before)
    assert done.returncode == 2 and f"{file.relative_to(folder)}: the file" in done.stderr
    assert not any("seed-8" in name for name in runs(folder))
    # Rows with the same labels that come from another file may have other texts.
    environment = json.loads((changed / "environment.json").read_text())
    environment["data"]["tasks"]["grade"]["splits"]["validation"]["fingerprint"] = "other"
    (changed / "environment.json").write_text(json.dumps(environment))
    done = mtl("report", str(changed), "--baseline", str(found["none_seed-0"]))
    assert done.returncode == 0 and "was scored on another file of grade" in done.stdout


def test_runs_that_drew_other_rows_to_be_scored_on_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    words = ["seed=0,1", "sharing=none", "data.max_eval_rows=20", f"run_dir={tmp_path}"]
    done = mtl("train", "-m", *SMALL, *words, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (str(tmp_path / f"{seed}_seed-{seed}") for seed in (0, 1))
    every = str(runs(folder)["none_seed-0"])
    for run, why in ((second, "draws rows by the seed"), (every, "is null here and 20 there")):
        done = mtl("report", run, "--baseline", first)
        assert done.returncode == 2 and "2 problems" in done.stderr, done.stdout + done.stderr
        assert f"the validation rows are not those of {first}" in done.stderr
        assert f"data.max_eval_rows {why}" in done.stderr


def test_runs_of_single_tasks_are_a_baseline(folder: Path, tmp_path: Path) -> None:
    found = runs(folder)
    candidate, whole = (str(found[f"{name}_seed-0"]) for name in ("hard_weighting-static", "none"))
    for task in ("stars", "grade"):
        shutil.copytree(whole, tmp_path / task)
        results = json.loads((tmp_path / task / "results.json").read_text())
        results["tasks"] = {task: results["tasks"][task]}
        (tmp_path / task / "results.json").write_text(json.dumps(results))
    said = [
        mtl("report", candidate, "--baseline", *baseline, cwd=tmp_path)
        for baseline in ([whole], ["stars", "grade"])
    ]
    assert [done.returncode for done in said] == [0, 0], said[1].stderr
    assert said[0].stdout.splitlines()[-1] == said[1].stdout.splitlines()[-1]
    twice = mtl("report", candidate, "--baseline", whole, "stars", cwd=tmp_path)
    assert twice.returncode == 2 and "seed 0 of stars is in" in twice.stderr


def test_mistakes_are_found_before_anything_is_trained(folder: Path, tmp_path: Path) -> None:
    run = str(next(iter(runs(folder).values())))
    cases = [
        (("report",), ["no run is given", "no baseline is given"]),
        (("report", run, "--baseline", run), ["there is no run beside the baseline"]),
        (("report", run, "--baseline", "nowhere"), ["there is no such folder"]),
        (
            ("report", run, "--baseline", "nowhere", "--to", "page.pdf"),
            ["the page is an HTML file"],
        ),
        (
            ("compare", "task=rte,cola", "data=sample", "model=tiny"),
            ["the baseline has none of its tasks: cola", "'task=[A,B]'"],
        ),
        (("compare", run), ["there is no baseline"]),
        (("compare", run, "data=sample"), ["there is no baseline"]),
        (("compare",), ["nothing is given to compare"]),
        (("compare", "task=rte", "seed=1,2"), ["type --seeds N"]),
        (
            (
                *("compare", "task=rte", "cola", "sharing=hardd", "--merge", "ties", "average"),
                *("--seeds", "0", "seed=1", "--to", "page.pdf"),
            ),
            [
                *("6 problems", "from 1 to 100", "hardd", "type --seeds N", "an HTML file"),
                *("one list: 'task=[rte,cola]'", "one list: --merge ties,average"),
            ],
        ),
        (
            ("compare", "task=rte", "data=sample", "data.max_eval_rows=9", "run_dir=x"),
            ["every seed would be scored on other rows"],
        ),
        (
            ("compare", "task=rte", "data=sample", "sharing=hard,mmoee", "optim.lr=-1", "~tasks.x"),
            ["mmoee", "optim.lr", "task 'x' is not in the run"],
        ),
        (
            ("compare", "task=rte", "data=sample", "sharing=none", "run_dir=x"),
            ["the candidate is the baseline itself"],
        ),
        (("compare", *SMALL[2:], "optim.lr=interval(0,1)"), ["only lists of values"]),
        (
            ("compare", "task=rte", "data=sample", "model=tiny", f"run_dir={run}/config.yaml"),
            [f"run_dir={run}/config.yaml: the folder cannot be written", "give another run_dir="],
        ),
        (
            ("compare", "task=rte", "data=sample", "model=tiny", f"run_dir={run}"),
            [f"run_dir={run}: the folder is that of a single run"],
        ),
    ]
    for words, expected in cases:
        done = mtl(*words, cwd=tmp_path)
        assert done.returncode == 2, (words, done.stdout, done.stderr)
        for text in expected:
            assert text in done.stderr, (words, done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_page_is_drawn_without_network(folder: Path, tmp_path: Path) -> None:
    page = folder / "out" / "report.html"
    html = page.read_text()
    assert "<script src" not in html and "http-equiv" not in html
    assert html.count("<h3>Side by side</h3>") == 1
    done = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path}"),
            *("--virtual-time-budget=20000", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )
    drawn = re.search(r'data-drawn="(\d+)"', done.stdout)
    # Gains, Pareto, curves (the average and two tasks), examples (three), the weights and the
    # gradients of pcgrad, and the first task's: three confusion matrices and the calibration.
    assert drawn is not None and int(drawn[1]) == 14
    assert done.stdout.count("<svg") >= 14


def test_merged_models_and_the_best_of_a_search(folder: Path) -> None:
    """One command: the baseline, a candidate, the best of a search over folds of train, and the
    baseline's copies merged."""
    options = ["sharing=hard", "weighting=static", "--seeds", "2", "run_dir=out"]
    options += ["--merge", "average,task_arithmetic", "sweep=random", "sweep.trials=2"]
    options += ["sweep.folds=2", "sweep.space={tasks.stars.weight: [3, 5]}"]
    options += ["tasks.stars.weight=2"]  # It holds for the baseline and the candidate.
    done = mtl("compare", *SMALL, *options, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    for label in ("hard", "best found", "merged average", "merged task_arithmetic"):
        assert f"{label} (2 seeds) against none (2 seeds)" in done.stdout, done.stdout
    jobs = (folder / "out" / "search" / "jobs.jsonl").read_text().splitlines()
    assert all("data.folds=2" in json.loads(line)["overrides"] for line in jobs)
    again = mtl("compare", *SMALL, *options, cwd=folder)
    assert again.returncode == 0 and "merging" not in again.stderr
    begin = "hard (2 seeds) against none"
    assert again.stdout[again.stdout.index(begin) :] == done.stdout[done.stdout.index(begin) :]
    (merged,) = (folder / "out").glob("none_seed-1_*_average")
    record = json.loads((merged / "environment.json").read_text())["merged"]
    assert [each["tasks"] for each in record["runs"]] == [["stars"], ["grade"]]
    # A merged model has no training of its own, and still a place in the plot of score and size.
    page = (folder / "out" / "report.html").read_text()
    sized = re.findall(r'"method":\s*"([^"]+)",\s*"TFLOP"', page)
    assert sized == ["none", "hard", "best found", "merged average", "merged task_arithmetic"]


def test_what_cannot_be_made(folder: Path) -> None:
    options = ["sharing=hard", "run_dir=out", "--merge", "tie,adamerging"]
    options += ["sweep=optuna", "sweep.space={tasks.star.weight: [1, 2]}"]
    done = mtl("compare", *SMALL, *options, cwd=folder)
    assert done.returncode == 2
    assert "unknown method 'tie'" in done.stderr and "ties" in done.stderr
    assert "task grade has no classes" in done.stderr and "tasks.star" in done.stderr
    # A method is named wrongly whether or not the settings can be composed.
    done = mtl("compare", *SMALL, "sharing=hardd", "--merge", "tie", cwd=folder)
    assert "hardd" in done.stderr and "unknown method 'tie'" in done.stderr
    (folder / "my_conf" / "experiment").mkdir()
    (folder / "my_conf" / "experiment" / "best.yaml").write_text(
        "# @package _global_\nsharing: {name: hard}\n"
    )
    done = mtl("compare", *SMALL, "experiment=best", cwd=folder)
    assert done.returncode == 2 and "this makes the baseline" in done.stderr, done.stderr
    right = ["sweep=optuna", "sweep.space={tasks.stars.weight: [1, 2]}"]
    done = mtl("compare", *SMALL, "sharing=hard", "run_dir=out", *right, cwd=folder)
    assert done.returncode == 2
    assert "would choose on the rows that are reported" in done.stderr
