"""Many runs: kept, retried, interrupted; and the studies made of them: loafing, matrix, sweep."""

import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_model
from started import Starts

from stimulative.cli import main
from stimulative.errors import UsageError
from stimulative.residual import Subnet
from stimulative.studies import FAILURE, Job, Workers, fill_matrix, measure_loafing, processes, sweep_setting
from stimulative.studies import loafing as loafing_room
from stimulative.studies import matrix as matrix_room
from stimulative.studies import sweep as sweep_room
from stimulative.studies.cluster import _ask_for_tasks, _executor
from stimulative.studies.launching import measured_scores, run_all
from stimulative.studies.matrix import fits
from stimulative.training import load_recipe, measure, prepare

TINY = {
    "model.arguments": {"width": 4},
    "schedule.epochs": 1,
    "training.threads": 1,
    "training.loggers": [],
    "method.name": "common",
}
WORDS = [
    "--model.arguments={width: 4}",
    "--schedule.epochs=1",
    "--training.loggers=[]",
]


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("digits", TINY)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two main nets by two methods, three subnets drawn from each."""
    out = tmp_path_factory.mktemp("loafing")
    recipe = load_recipe("digits", TINY | {"method.name": "stimulative"})
    plan = loafing_room.LoafingPlan(recipe, ["1-2-1", "2-2-2"], subnets=3, methods=["common", "stimulative"])
    return plan, out, measure_loafing(plan, out)


def test_loafing_trains_each_architecture_once(study):
    plan, out, result = study
    assert [str(net) for net in plan.main] == ["1-2-1", "2-2-2"]
    assert [str(subnet) for subnet in plan.drawn[plan.main[0]]] == ["1-1-1"]  # all that there are
    drawn = plan.drawn[plan.main[1]]
    assert len(set(drawn)) == 3 and all(fits(subnet, plan.main[1]) for subnet in drawn)
    alone = {f"common-{subnet}-seed0" for subnets in plan.drawn.values() for subnet in subnets}
    mains = {f"{method}-{net}-seed0" for net in ("1-2-1", "2-2-2") for method in ("common", "stimulative")}
    directories = {path.name for path in out.iterdir() if path.is_dir()}
    assert directories == alone | mains
    assert result.to_mapping() == json.loads((out / "loafing.json").read_text())
    assert result.failed == ()


def test_loafing_is_accuracy_alone_less_accuracy_inside(study):
    _, out, result = study
    assert len(result.subnets) == 2 * (1 + 3)
    for pair in result.subnets:
        summary = json.loads((out / f"common-{pair.subnet}-seed0" / "summary.json").read_text())
        assert pair.alone == summary["main"]["top1"] and summary["epochs"] == 1
        assert pair.gap == pair.alone - pair.in_group
    for row in result.rows:
        gaps = [p.gap for p in result.subnets if (p.method, p.main) == (row.method, row.main)]
        assert row.gap_mean == pytest.approx(sum(gaps) / len(gaps))
        assert row.gap_std == pytest.approx(np.std(gaps))
        assert row.subnets == len(gaps)
    assert [(row.method, row.main, row.blocks) for row in result.rows] == [
        ("common", "1-2-1", 4),
        ("common", "2-2-2", 6),
        ("stimulative", "1-2-1", 4),
        ("stimulative", "2-2-2", 6),
    ]


def test_the_accuracy_inside_is_that_of_the_subnet_of_the_trained_main_net(study):
    _, out, result = study
    pair = next(p for p in result.subnets if p.method == "stimulative" and p.main == "2-2-2")
    run = out / "stimulative-2-2-2-seed0"
    one = load_recipe(run / "recipe.yaml")
    prepared = prepare(one)
    load_model(prepared.network.model, run / "model.safetensors")
    subnet = Subnet.parse(pair.subnet)
    statistics_ = prepared.network.recalibrate(
        prepared.data.calibration, [subnet], images=one.evaluation.calibration_images
    )
    score = measure(prepared.network, prepared.data.test, [subnet], statistics=statistics_)[0]
    assert pair.in_group == pytest.approx(score.quality, abs=1e-3)


def test_the_same_seed_gives_the_same_study_with_two_jobs_at_once(study, tmp_path):
    plan, _, result = study
    assert measure_loafing(plan, tmp_path, workers=Workers(jobs=2)) == result


def test_a_finished_study_repeats_nothing(study):
    plan, out, result = study
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*") if path.is_file()}
    told = []
    assert measure_loafing(plan, out, after_run=lambda name, _: told.append(name)) == result
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/*") if path.is_file()} == before
    assert told == list(plan.jobs)


def test_more_subnets_use_the_runs_that_are_there(study, recipe):
    plan, out, _ = study
    model = out / "common-2-2-2-seed0" / "model.safetensors"
    before = model.stat().st_mtime_ns
    more = loafing_room.LoafingPlan(recipe, ["2-2-2"], subnets=5)
    result = measure_loafing(more, out)
    assert result.rows[0].subnets == 5 and model.stat().st_mtime_ns == before
    measure_loafing(plan, out)


@pytest.mark.timeout(900)  # two starts of Python, and runs in each
def test_interrupting_a_study_and_starting_it_again_repeats_no_finished_run(study, tmp_path):
    _, _, result = study
    command = [sys.executable, "-m", "stimulative", "loafing", "digits", "--main", "1-2-1", "2-2-2"]
    command += ["--subnets", "3", "--methods", "common,stimulative", "--out", str(tmp_path / "out"), *WORDS]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # also where the tests ignore it
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]  # the headline, and two finished runs
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on with what is in" in errors and "Traceback" not in errors
    assert [line.partition(":")[0] for line in lines[1:]] == ["common-1-2-1-seed0", "stimulative-1-2-1-seed0"]
    done = list(tmp_path.glob("out/*/model.safetensors"))
    assert 2 <= len(done) < 7
    before = {path: path.stat().st_mtime_ns for path in done}
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in done} == before
    assert json.loads((tmp_path / "out" / "loafing.json").read_text()) == result.to_mapping()


def test_runs_end_with_a_study_that_is_killed(tmp_path):
    command = [sys.executable, "-m", "stimulative", "compare", "digits", "--seeds", "1", "--out", str(tmp_path / "out")]
    command += [*WORDS, "--schedule.epochs", "100000"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        until(lambda: (tmp_path / "out" / "common-seed0" / "metrics.csv").exists())
        process.kill()
        assert process.wait() == -signal.SIGKILL
        until(lambda: not alive(process.pid))
    finally:
        if alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def test_workers_of_a_study_need_not_import_what_they_use():
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=processes._send, args=(sender, os.getcwd(), (), Starts()))
    process.start()
    assert receiver.recv() == ["torch", "stimulative.data", "timm"]
    process.join()


def until(holds):
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError("it has not come to hold in two minutes")


def alive(group):
    """Whether any process of a group is there."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def make_images(folder):
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for number in range(10):
                pixels = generator.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


def test_a_failed_run_is_reported_and_tried_again_alone(recipe, tmp_path):
    images = tmp_path / "images"
    settings = {"data.image_size": 32, "data.workers": 0, "data.crop_padding": 0}
    missing = recipe.override({"data.name": f"folder:{images}", **settings})
    jobs = {"broken": Job(missing, ()), "good": Job(recipe, ())}
    outcome = run_all(jobs, tmp_path / "out")
    assert list(outcome.summaries) == ["good"]
    assert list(outcome.failed) == ["broken"] and str(images) in outcome.failed["broken"]
    assert "UsageError" in (tmp_path / "out" / "broken" / FAILURE).read_text()
    before = (tmp_path / "out" / "good" / "model.safetensors").stat().st_mtime_ns
    make_images(images)
    outcome = run_all(jobs, tmp_path / "out")
    assert list(outcome.summaries) == ["broken", "good"] and not outcome.failed
    assert (tmp_path / "out" / "good" / "model.safetensors").stat().st_mtime_ns == before
    assert not (tmp_path / "out" / "broken" / FAILURE).exists()


def test_a_run_with_a_damaged_summary_is_a_failed_run(recipe, tmp_path):
    jobs = {"one": Job(recipe, ()), "other": Job(recipe.override({"seed": 1}), ())}
    run_all(jobs, tmp_path)
    summary = tmp_path / "one" / "summary.json"
    summary.write_text(summary.read_text()[:50])
    outcome = run_all(jobs, tmp_path)
    assert list(outcome.summaries) == ["other"]
    assert "is not JSON" in outcome.failed["one"] and f"remove {tmp_path / 'one'}" in outcome.failed["one"]


def test_a_killed_process_is_a_failed_run_and_the_others_go_on(recipe, tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text("import os\ndef net(num_classes, in_chans):\n    os.kill(os.getpid(), 9)\n")
    monkeypatch.syspath_prepend(tmp_path)
    deadly = recipe.override({"model.name": "deadly:net", "model.arguments": {}})
    outcome = run_all({"a": Job(deadly, ()), "b": Job(recipe, ())}, tmp_path / "out", workers=Workers(jobs=2))
    assert list(outcome.summaries) == ["b"]
    assert outcome.failed == {"a": "its process was killed, perhaps for want of memory"}


def test_a_script_that_is_not_guarded_is_told_so(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from stimulative.studies import compare\nfrom stimulative.training import load_recipe\n"
        "recipe = load_recipe('digits', {'schedule.max_steps': 1, 'training.loggers': []})\n"
        "print(compare(recipe, 'out', methods='common', seeds=1).failed[0].error)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == (
        "its process ended with status 1 before it had begun; in a script, what starts runs has to stand under "
        "if __name__ == '__main__':"
    )


def test_the_command_line_tells_what_failed(tmp_path, capsys, monkeypatch):
    # the planning succeeds, since the net breaks in training only
    (tmp_path / "fragile.py").write_text(
        "from stimulative import models\n"
        "def net(num_classes, in_chans):\n"
        "    net = models.build('cifar/resnet20', classes=num_classes, channels=in_chans, arguments={'width': 4})\n"
        "    def check(module, args):\n"
        "        if module.training and len(net.layer1) and type(net.layer1[1]).__name__ == 'RemovedBlock':\n"
        "            raise RuntimeError('too short')\n"
        "    net.register_forward_pre_hook(check)\n"
        "    return net\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["matrix", "digits", "--nets", "1-1-1", "2-1-1", "--out", str(tmp_path / "out")]
    words += ["--model.name", "fragile:net", "--schedule.epochs", "1", "--training.loggers", "[]"]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert "common-1-1-1-seed0 failed: RuntimeError: too short" in printed.err
    assert "the same command tries again what failed" in printed.err and "Traceback" not in printed.err
    cells = json.loads((tmp_path / "out" / "matrix.json").read_text())["cells"]
    assert [(cell["subnet"], cell["main"]) for cell in cells] == [("1-1-1", "2-1-1"), ("2-1-1", "2-1-1")]


def test_a_failure_is_told_in_the_words_of_the_command(tmp_path, capsys):
    words = ["matrix", "digits", "--nets", "1-1-1", "2-1-1", "--out", str(tmp_path), "--schedule.max_steps", "1"]
    words += ["--model.arguments", "{width: 4}", "--training.loggers", "[]", "--jobs", "2"]
    assert main(words) == 0
    damaged = tmp_path / "common-1-1-1-seed0"
    (damaged / "summary.json").unlink()
    for name in ("last", "previous", "best"):
        (damaged / f"checkpoint-{name}.ckpt").write_bytes(b"cut short")
    assert main(words) == 1
    told = capsys.readouterr().err
    assert "choose another directory with --out, to start again" in told and "out=" not in told


def test_a_cluster_computes_the_same(recipe, tmp_path):
    here = run_all({"one": Job(recipe, ())}, tmp_path / "here").summaries["one"]
    away = run_all({"one": Job(recipe, ())}, tmp_path / "away", workers=Workers(jobs=2, cluster="local"))
    assert away.summaries["one"].main == here.main
    assert json.loads((tmp_path / "away" / "one" / "summary.json").read_text())["main"] == here.main.to_mapping()
    broken = recipe.override({"data.name": f"folder:{tmp_path}/none", "data.image_size": 32})
    outcome = run_all({"one": Job(broken, ())}, tmp_path / "broken", workers=Workers(cluster="local"))
    assert "none" in outcome.failed["one"]


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ({"jobs": 0}, "the number of jobs at once is 1 or more, got 0"),
        ({"options": {"timeout_min": 5}}, "need the cluster: cluster='slurm'"),
    ],
)
def test_impossible_workers_are_refused(workers, message):
    with pytest.raises(UsageError, match=message):
        Workers(**workers)


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, [("4", "2"), ("1", "1")]),
        ({"slurm_ntasks_per_node": 2}, [("2", "2"), ("2", "1")]),
        ({"tasks_per_node": 2, "slurm_nodes": 3}, [("2", "3"), ("2", "3")]),
    ],
)
def test_slurm_is_asked_for_the_tasks_of_each_run(options, lines, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("submitit.SlurmExecutor.affinity", lambda *_: 1)
    workers = Workers(cluster="slurm", options=options)
    executor = _executor(tmp_path, workers)
    for (tasks, nodes), settings in zip(
        lines, [{"training.devices": 4, "training.num_nodes": 2}, {"training.devices": "auto"}], strict=True
    ):
        _ask_for_tasks(executor, Job(recipe.override(settings), ()), workers)
        text = executor._executor._make_submission_file_text("work", "1")
        assert (f"--ntasks-per-node={tasks}\n" in text, f"--nodes={nodes}\n" in text) == (True, True), text


def test_an_unknown_cluster_is_refused_before_any_run(recipe, tmp_path):
    with pytest.raises(UsageError, match="the cluster 'abacus' cannot be used"):
        run_all({"one": Job(recipe, ())}, tmp_path, workers=Workers(cluster="abacus"))


def test_a_matrix_has_each_net_alone_and_inside_every_larger_one(recipe, tmp_path):
    plan = matrix_room.MatrixPlan(recipe, ["2-1-1", "1-1-1", "1-2-1"], seeds=2)
    result = fill_matrix(plan, tmp_path)
    assert list(result.nets) == ["1-1-1", "1-2-1", "2-1-1"]  # by their number of blocks
    places = [(cell.subnet, cell.main) for cell in result.cells]
    # 1-2-1 and 2-1-1 do not fit into each other
    assert places == [
        (a, b)
        for a, b in [("1-1-1", "1-1-1"), ("1-1-1", "1-2-1"), ("1-1-1", "2-1-1"), ("1-2-1", "1-2-1"), ("2-1-1", "2-1-1")]
    ]
    alone = [json.loads((tmp_path / f"common-1-1-1-seed{s}" / "summary.json").read_text()) for s in (0, 1)]
    values = [summary["main"]["top1"] for summary in alone]
    assert result.cells[0].to_mapping() == {
        "subnet": "1-1-1",
        "main": "1-1-1",
        "seeds": 2,
        "mean": statistics.fmean(values),
        "std": pytest.approx(statistics.stdev(values)),
    }
    inside = [measured_scores(tmp_path / f"common-2-1-1-seed{s}")["1-1-1"].quality for s in (0, 1)]
    assert result.cells[2].mean == pytest.approx(statistics.fmean(inside))


def test_a_matrix_of_densenets_builds_the_smaller_ones(tmp_path):
    settings = {"schedule.epochs": 1, "training.loggers": [], "training.threads": 1}
    recipe = load_recipe("digits-densenet", settings)
    network = prepare(recipe).network
    depths = list(network.full.depths)
    small = [2, *depths[1:]]
    plan = matrix_room.MatrixPlan(recipe, ["-".join(map(str, d)) for d in (small, depths)])
    jobs = list(plan.jobs.values())
    assert jobs[0].recipe.model.arguments["block_config"] == small and jobs[0].recipe.model.subnet is None
    assert prepare(jobs[0].recipe).network.full.depths == tuple(small)
    result = fill_matrix(plan, tmp_path)
    assert len(result.cells) == 3 and not result.failed


def test_a_matrix_of_densenets_is_tried_on_made_up_images_in_a_few_steps(tmp_path, capsys):
    arguments = ["--model.arguments.growth_rate", "4", "--model.arguments.block_config", "[2, 2, 2, 3]"]
    few = ["--data.images", "16", "--data.image_size", "8", "--data.batch_size", "8", "--data.workers", "0"]
    words = ["matrix", "cifar100-densenet121", *arguments, "--nets", "2-2-2-2", "2-2-2-3", "--data", "fake", *few]
    assert main([*words, "--max-steps", "2", "--out", str(tmp_path / "m"), "--training.loggers", "[]"]) == 0
    printed = capsys.readouterr().out
    assert "2 runs of cifar/densenet121 on fake, 300 epochs each, by common training, 2 steps at most" in printed
    for net, layers in (("2-2-2-2", [2, 2, 2, 2]), ("2-2-2-3", [2, 2, 2, 3])):
        run = tmp_path / "m" / f"common-{net}-seed0"
        one = load_recipe(run / "recipe.yaml")
        assert (one.data.name, one.data.classes, one.schedule.max_steps, one.method.name) == ("fake", 100, 2, "common")
        assert one.model.arguments == {"growth_rate": 4, "block_config": layers}
        assert json.loads((run / "summary.json").read_text())["steps"] == 2
    cells = json.loads((tmp_path / "m" / "matrix.json").read_text())["cells"]
    assert [(cell["subnet"], cell["main"]) for cell in cells] == [
        ("2-2-2-2", "2-2-2-2"),
        ("2-2-2-2", "2-2-2-3"),
        ("2-2-2-3", "2-2-2-3"),
    ]


def test_a_sweep_sets_the_value_and_nothing_else(recipe, tmp_path):
    stimulative = load_recipe("digits", {**TINY, "method.name": "stimulative"})
    plan = sweep_room.SweepPlan(stimulative, "method.balance", ["0.5", "5"], seeds=2)
    result = sweep_setting(plan, tmp_path)
    assert [row.value for row in result.rows] == [0.5, 5.0]
    for run in result.runs:
        one = load_recipe(tmp_path / run.run / "recipe.yaml")
        assert one == stimulative.override({"method.balance": run.value, "seed": run.seed})
    first = [json.loads((tmp_path / f"balance-0.5-seed{s}" / "summary.json").read_text()) for s in (0, 1)]
    row = result.rows[0]
    assert row.main_mean == pytest.approx(sum(s["main"]["top1"] for s in first) / 2)
    assert row.main_std == pytest.approx(np.std([s["main"]["top1"] for s in first], ddof=1))
    assert row.all_mean == pytest.approx(sum(s["subnets"]["mean"] for s in first) / 2)
    assert row.all_std == pytest.approx(sum(s["subnets"]["std"] for s in first) / 2)
    assert json.loads((tmp_path / "sweep.json").read_text()) == result.to_mapping()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loafing", "digits", "--main", "3-3", "--out", "x"], "subnet 3-3 is not one of this network's"),
        (["loafing", "digits", "--main", "4-3-3", "--out", "x"], "Allowed: depths (1..3, 1..3, 1..3)"),
        (["loafing", "digits", "--main", "2-2-2", "2-2-2", "--out", "x"], "main nets: 2-2-2 is given twice"),
        (["loafing", "digits", "--main", "1-1-1", "--out", "x"], "the main net 1-1-1 is the smallest there is"),
        (["loafing", "digits", "--main", "2-2-2", "--subnets", "0", "--out", "x"], "from 1 to 10,000, got 0"),
        (["loafing", "digits", "--main", "2-2-2", "--methods", "magic", "--out", "x"], "unknown method 'magic'"),
        (["loafing", "digits", "--main", "2-2-2", "--jobs", "0", "--out", "x"], "jobs at once is 1 or more, got 0"),
        (["loafing", "digits", "--main", "2-2-2"], "--out"),
        (["matrix", "digits", "--nets", "[0.2]-1-1", "--out", "x"], "subnet [0.2]-1-1 is not one of this network's"),
        (["matrix", "digits", "--nets", "2-2-2", "--method.name=x", "--out", "x"], "is said with --method here"),
        (["matrix", "digits", "--nets", "2-2-2", "--method", "magic", "--out", "x"], "unknown method"),
        (["matrix", "digits", "--nets", "2-2-2", "--max-steps", "0", "--out", "x"], "max_steps: must be at least 1"),
        (["matrix", "digits", "--nets", "2-2-2", "--data", "fakes", "--out", "x"], "unknown data set 'fakes'"),
        (
            ["matrix", "digits", "--nets", "2-2-2", "--data", "fake", "--data.name=cifar10", "--out", "x"],
            "got both --data and --data.name, which say the same",
        ),
        (
            ["matrix", "digits", "--nets", "2-2-2", "--seeds", "0", "--out", "x"],
            "number of seeds is from 1 to 1,000, got 0",
        ),
        (["matrix", "digits", "--nets", "2-2-2", "--cluster-option", "x", "--out", "x"], "KEY=VALUE, got 'x'"),
        (
            ["sweep", "digits", "--key", "method.blance", "--values", "1", "--out", "x"],
            "method.blance: unknown setting",
        ),
        (["sweep", "digits", "--key", "method.balance", "--values", "1,-2", "--out", "x"], "balance"),
        (["sweep", "digits", "--key", "method.balance", "--values", "1,1.0", "--out", "x"], "may be given once"),
        (
            ["sweep", "digits", "--key", "method.balance", "--values", "1,,2", "--out", "x"],
            "without empty places; got '1,,2'",
        ),
        (["sweep", "digits", "--key", "seed", "--values", "1,2", "--out", "x"], "the seed is not swept"),
    ],
)
def test_impossible_studies_are_refused_before_any_work(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    printed = capsys.readouterr()
    assert message in printed.err and "Traceback" not in printed.err
    assert not list(tmp_path.iterdir())


def test_the_commands_print_their_tables_and_draw_their_pictures(tmp_path, capsys):
    common = [*WORDS, "--method.name=common"]
    assert main(["matrix", "digits", "--nets", "1-1-1", "1-1-2", "--out", str(tmp_path / "m"), *WORDS]) == 0
    printed = capsys.readouterr().out
    assert "2 runs of cifar/resnet20 on digits, 1 epochs each, by common training" in printed and "1-1-2" in printed
    assert (tmp_path / "m" / "matrix.png").stat().st_size > 1000
    words = ["sweep", "digits", "--key", "optimizer.betas", "--values", "[0.9,0.99],[0.8,0.9]", "--seeds", "1"]
    assert main([*words, "--out", str(tmp_path / "s"), *common]) == 0
    assert [row["value"] for row in json.loads((tmp_path / "s" / "sweep.json").read_text())["rows"]] == [
        [0.9, 0.99],
        [0.8, 0.9],
    ]
