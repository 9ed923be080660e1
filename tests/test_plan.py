"""``stimulative plan``: its counts are those of real steps, and its times follow from them by hand."""

import itertools
import json
from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stimulative.analysis import Operations, operations_of
from stimulative.cli.command_line import main
from stimulative.config import load_recipe
from stimulative.proposing import GPUS, Machine, forecast_of
from stimulative.proposing.foreseen_data import foresee
from stimulative.proposing.training_work import TrainingWork
from stimulative.residual import SubnetSpace, resolve_sampler
from stimulative.residual.odds import odds_of
from stimulative.training import prepare

RANGES = [[2, 3], [3, 3], [1, 2]]
FLOPS_ALONE = Machine("flops", {"fp32": 1e9}, 1e30, None, 1e9, "made up", measured=True)
TRAFFIC_ALONE = Machine("traffic", {"fp32": 1e30}, 1e9, None, 1e9, "made up", measured=True)


def recipe(**settings):
    base = {
        "model": {"name": "cifar/resnet20"},
        "data": {"name": "fake", "image_size": 16, "images": 80, "batch_size": 8, "workers": 0},
        "method": {"name": "stimulative", "sampler": {"name": "ordered", "ranges": RANGES}},
        "schedule": {"epochs": 2},
    }
    return load_recipe(base, {key.replace("__", "."): value for key, value in settings.items()})


def flops(operations: Operations) -> float:
    return float(operations.flops.sum())


def flops_of(work) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def work():
    return TrainingWork(prepare(recipe()))


@pytest.fixture(scope="module")
def of_flops():
    return forecast_of(recipe(), machine=FLOPS_ALONE)


TWO = {"method__sampler.ranges": [[2, 2], [3, 3], [2, 3]]}
DENSE = {
    "model__name": "timm/densenet121",
    "model__arguments": {"block_config": [2, 2], "growth_rate": 4},
    "method__sampler": "ordered",
    "data__image_size": 32,
}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method__subnets_per_step": 2},
        {"method__subnet_share": 0.5},
        {"method__every": 3},
        {"method__schedule": "lean"},
        {**TWO, "method__smaller_inputs": 0.95, "method__subnets_per_step": 2},
        DENSE,
    ],
    ids=["plain", "two", "half", "every third", "lean", "two, smaller", "dense"],
)
def test_the_expected_operations_are_the_mean_over_all_that_may_be_drawn(settings):
    """Counted by PyTorch's own counter on whole steps of the method, for each possible draw."""
    prepared = prepare(recipe(**settings))
    work, method, network = TrainingWork(prepared), prepared.method, prepared.network
    x, y = next(iter(prepared.data.train))
    step = work.step(len(x))
    ranges = settings.get("method__sampler.ranges", RANGES)
    subnets = list(network.space if settings is DENSE else network.space.restrict(ranges))
    sides = [None] if method.smaller_inputs is None else [None, 15]  # of 16 pixels
    draws = list(itertools.product(itertools.product(subnets, sides), repeat=method.subnets_per_step))
    network.train()

    def total(drawn) -> int:
        method.draw_sides = lambda x, count: [side for _, side in drawn]
        return flops_of(lambda: method.backward(x, y, [subnet for subnet, _ in drawn]))

    mean = sum(map(total, draws)) / len(draws)
    del method.draw_sides
    common = flops_of(lambda: method.backward(x, y, []))
    assert flops(step.main) == common
    assert step.extra(flops) == pytest.approx((mean - common) / method.every, rel=1e-9)
    assert mean > common and not step.estimate


@pytest.mark.parametrize("method", ["common", "layer_supervision", "stage_supervision", "stochastic_depth"])
def test_of_other_methods_the_steps_that_they_do_are_counted(method):
    prepared = prepare(recipe(method__name=method))
    step = TrainingWork(prepared).step(8)
    x, y = next(iter(prepared.data.train))
    prepared.method.train()
    common = flops(step.main)
    if method == "stochastic_depth":  # which skips blocks at random
        assert -common < step.extra(flops) <= 0
    else:
        assert common + step.extra(flops) == pytest.approx(flops_of(lambda: prepared.method.backward(x, y)))
    assert (step.extra(flops) == 0) == (method == "common")


def test_of_group_knowledge_over_steps_all_levels_are_counted_alike_at_both_sizes():
    """The mean over draws of all levels, each at both batch sizes of the same subnet."""
    prepared = prepare(recipe(method__name="group_knowledge", method__levels=3))
    work = TrainingWork(prepared)
    assert work.numbered and work.step(8).extra(flops) > 0
    drawn: list[tuple[int, str]] = []
    forward = type(prepared.method).forward

    def heard(method, x, y, subnets=None):
        terms = forward(method, x, y, subnets)
        drawn.append((len(x), str(terms.subnets[0])))
        return terms

    prepared.method.forward = heard.__get__(prepared.method)
    TrainingWork(prepared).step(8)
    of_two, of_four = ([net for size, net in drawn if size == wanted] for wanted in (2, 4))
    assert of_two == of_four and len(of_two) % 3 == 0
    assert not TrainingWork(prepared, processes=2).numbered


def test_subnets_that_come_late_or_go_early_cost_less():
    def extra(**settings):
        return TrainingWork(prepare(recipe(**settings))).step(8).extra(flops)

    plain = extra()
    assert extra(method__balance_start=0.25) == pytest.approx(0.75 * plain)
    down = {"method__balance_shape": "cosine_down", "method__balance_ramp": 0.5}
    assert extra(**down) == pytest.approx(0.5 * plain)


def test_a_plan_without_the_data_is_of_the_images_that_are_taken():
    whole = foresee(load_recipe("cifar100-10k", {"data.train_images": None, "data.path": "/nowhere"}), processes=1)[1]
    part = foresee(load_recipe("cifar100-10k", {"data.path": "/nowhere"}), processes=1)[1]
    assert (whole.training, whole.validation) == (44928, 5000)
    assert (part.training, part.validation) == (8960, 1000)


def test_a_larger_batch_follows_from_two_small_ones():
    """Operations, traffic and what is kept are those of a real step on eight samples."""
    prepared = prepare(recipe())
    work = TrainingWork(prepared)
    foreseen = work.step(8).main
    x, y = next(iter(prepared.data.train))
    held = [*prepared.method.parameters(), *prepared.method.buffers(), x, y]
    real = operations_of(lambda: prepared.method.backward(x, y, []), held)
    assert len(foreseen) == len(real) > 100
    assert (foreseen.flops == real.flops).all() and (foreseen.traffic == real.traffic).all()
    assert foreseen.saved == real.saved > 100_000


def test_traffic_of_operations_by_hand():
    """Of a sum of two tensors of 8 and a product of (2, 3) and (3, 4), in float32; looking at one takes none."""
    a, b, c, d = torch.ones(8), torch.ones(8), torch.ones(2, 3), torch.ones(3, 4)
    counted = operations_of(lambda: ((a + b).reshape(2, 4), c @ d))
    assert counted.traffic.tolist() == [3 * 8 * 4, (6 + 12 + 8) * 4]
    assert counted.flops.tolist() == [0, 2 * 2 * 3 * 4]


def test_a_time_is_operations_by_a_rate(of_flops):
    step, of_traffic = of_flops.step, forecast_of(recipe(), machine=TRAFFIC_ALONE)
    assert step.seconds_common.typical == pytest.approx(step.flops_common / 1e9)
    assert step.seconds.typical == pytest.approx((step.flops_common + step.flops_beside) / 1e9)
    assert step.seconds.best < step.seconds.typical < step.seconds.worst
    assert step.bound["arithmetic"] > 0.99 and of_traffic.step.bound["memory traffic"] == pytest.approx(1)
    traffic = of_traffic.step.traffic_common + of_traffic.step.traffic_beside
    assert of_traffic.step.seconds.typical > traffic / 1e9  # the optimiser's step comes on top
    # 2 epochs of 10 steps, and validation on 20 images of 80, thrice more at the end, and the test split
    assert of_flops.steps_per_epoch == 10 and of_flops.training == 80 and of_flops.validation == 20
    assert of_flops.train_seconds.typical > 20 * step.seconds.typical
    assert of_flops.evaluate_seconds.typical == pytest.approx(of_flops.evaluate_flops / 1e9)


@pytest.mark.parametrize(("tf32", "rate"), [(True, 4e9), (False, 1e9)])
def test_float32_is_multiplied_in_tf32_as_the_recipe_says(tf32, rate, of_flops):
    fast = Machine("fast", {"fp32": 1e9, "tf32": 4e9, "fp16": 8e9}, 1e30, None, 1e9, "made up", measured=True)
    found = forecast_of(recipe(training__tf32=tf32), machine=fast)
    assert found.step.seconds_common.typical == pytest.approx(of_flops.step.flops_common / rate)
    assert any(f"{8e9 / rate:.1f} times as high (training.precision 16-mixed)" in said for said in found.warnings)


def test_the_operations_of_an_evaluation_are_those_of_running_all_subnets(work):
    passes = work.passes(list(work.network.space), 8)
    x = torch.randn(8, 3, 16, 16)
    work.network.eval()
    with torch.no_grad():
        assert passes.of_all(flops) == flops_of(lambda: work.network.run(x, list(work.network.space)))
        assert passes.of_main(flops) == flops_of(lambda: work.network(x))


@pytest.mark.parametrize("autocast", [False, True])
def test_evaluation_is_planned_in_the_format_that_it_runs_in(autocast):
    fast = Machine("fast", {"fp32": 1e9, "bf16": 4e9}, 1e30, None, 1e9, "made up", measured=True)
    mixed = recipe(training__precision="bf16-mixed", evaluation__autocast=autocast)
    found = forecast_of(mixed, machine=fast)
    assert found.evaluate_seconds.typical == pytest.approx(found.evaluate_flops / (4e9 if autocast else 1e9))
    assert found.step.seconds_common.typical == pytest.approx(found.step.flops_common / 4e9)


def test_bytes_of_weights_and_of_what_is_kept_beside_them(of_flops):
    own = prepare(recipe()).network.model
    parameters, buffers = list(own.parameters()), list(own.buffers())
    numbers, memory = sum(p.numel() for p in parameters), of_flops.memory
    assert of_flops.parameters == numbers
    assert memory.gradients == memory.optimizer == 4 * numbers  # sgd keeps a momentum
    assert memory.weights == 4 * numbers + sum(b.numel() * b.element_size() for b in buffers)
    assert memory.least < memory.most and memory.fits is None
    adamw = TrainingWork(prepare(recipe(optimizer__name="adamw", optimizer__lr=0.001)))
    # two averages, and a step counted for each tensor
    assert adamw.update()[1] == 2 * 4 * numbers + 4 * len(parameters)


def test_an_optimiser_takes_its_step_on_a_gpu_in_a_few_kernels():
    work = TrainingWork(prepare(recipe()))
    numbers, tensors = sum(p.numel() for p in work.method.parameters()), len(list(work.method.parameters()))
    fused, kept = work.update(on_gpu=True)
    assert len(fused) <= 4 and kept == 4 * numbers  # two groups: what decays and what does not
    # parameters, gradients and momenta are read and, by what PyTorch says of the kernel, written
    assert fused.traffic.sum() == pytest.approx(6 * 4 * numbers, rel=0.01)
    several = TrainingWork(prepare(recipe(optimizer__fused=False))).update(on_gpu=True)[0]
    assert len(fused) < len(several) < tensors < len(work.update()[0])


@pytest.mark.parametrize(
    ("settings", "hides"),
    [({}, True), ({"training__strategy": "flat"}, False), ({"method__schedule": "lean"}, False)],
    ids=["ddp", "flat", "lean"],
)
def test_only_what_is_sent_during_the_backward_pass_hides_behind_it(settings, hides):
    found = forecast_of(recipe(**settings), gpu="h100", gpus=2)
    at_most = found.communicated / GPUS["h100"].link / 0.85  # of the link, in the best case
    assert found.step.communication.best == pytest.approx(0 if hides else at_most)


def test_the_batch_that_costs_no_more_is_told_where_launching_takes_longer():
    few, many = (forecast_of(recipe(data__batch_size=size, data__images=100_000), gpu="h100") for size in (8, 64))
    said = next(said for said in few.warnings if "launching" in said)
    free = int(said.split("about ")[1].split(" ")[0].replace(",", ""))
    assert free > 64 and many.step.seconds.typical == pytest.approx(few.step.seconds.typical)
    limit, beyond = (
        forecast_of(recipe(data__batch_size=size, data__images=100_000), gpu="h100").step.seconds.typical
        for size in (int(0.9 * free), 2 * free)
    )
    assert limit <= 1.05 * few.step.seconds.typical < beyond


def test_devices_are_those_of_the_recipe_unless_told():
    of_recipe = recipe(training__devices=2)
    as_it_says, told = forecast_of(of_recipe, gpu="t4"), forecast_of(of_recipe, gpu="t4", gpus=1)
    assert (as_it_says.devices, told.devices) == (2, 1)
    said = "the recipe has training.devices 2: on 1 it starts with that set to auto"
    assert said in told.warnings and said not in as_it_says.warnings
    on_cpu = forecast_of(recipe(training__device="cpu"), gpu="t4")
    assert "the recipe has training.device cpu: it runs on a GPU with that set to auto" in on_cpu.warnings


@pytest.mark.parametrize(("name", "saved"), [("compile", "compiling fuses"), ("capture", "replaying recordings saves")])
def test_what_repeats_less_is_neither_counted_nor_proposed_again(name, saved):
    plain, found = forecast_of(recipe(), gpu="h100"), forecast_of(recipe(**{f"training__{name}": True}), gpu="h100")
    assert any("training.compile helps" in warning for warning in plain.warnings)
    assert not any("training.compile helps" in warning for warning in found.warnings)
    assert f"operations are counted as they run one by one; what {saved} is not known" in found.warnings


def test_half_precision_is_not_proposed_where_launching_takes_longest():
    few, many = (forecast_of(recipe(data__batch_size=size, data__images=100_000), gpu="h100") for size in (16, 16_384))
    assert few.step.bound["launching"] > 0.5 > many.step.bound["launching"]
    told = [any("leaves much of this GPU unused" in warning for warning in of.warnings) for of in (few, many)]
    assert told == [False, True]


def test_a_net_without_statistics_is_not_charged_for_estimating_them(of_flops):
    assert of_flops.recalibrate_seconds.typical > 0
    found = forecast_of(load_recipe("digits-vit"), machine=FLOPS_ALONE)
    assert found.recalibrate_seconds.worst == 0 and found.evaluate_seconds.typical > 0


def test_several_devices_share_images_and_sum_gradients(of_flops):
    two = forecast_of(recipe(), gpus=2, machine=FLOPS_ALONE)
    assert of_flops.communicated == 0
    assert two.communicated == 2 * 1 / 2 * 4 * of_flops.parameters
    assert two.step.communication.typical == pytest.approx(two.communicated / 1e9)
    assert two.steps_per_epoch * two.batch * 2 == two.training == 80
    assert two.validation_seconds.typical == pytest.approx(of_flops.validation_seconds.typical / 2)


def test_a_look_at_the_test_split_after_each_epoch_takes_its_time(of_flops):
    tested = forecast_of(recipe(evaluation__test_every_epoch=True), machine=FLOPS_ALONE)
    per_image = of_flops.validation_seconds.typical / of_flops.validation
    wanted = per_image * (of_flops.validation + of_flops.test)
    assert tested.validation_seconds.typical == pytest.approx(wanted)
    more = tested.train_seconds.typical - of_flops.train_seconds.typical
    assert more == pytest.approx(wanted - of_flops.validation_seconds.typical)


def tiny_machine(memory, **rates) -> Machine:
    return Machine("tiny", {"fp32": 1e9, **rates}, 1e9, memory, 1e9, "made up", measured=True)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_batch_that_would_fit_is_told_where_one_does_not(devices):
    tiny = tiny_machine(12e6)
    memory = forecast_of(recipe(data__batch_size=64, data__images=160), gpus=devices, machine=tiny).memory
    assert memory.fits != "yes" and 1 <= memory.largest_batch < 64
    said = next(what for what in memory.instead if what.startswith("data.batch_size"))
    assert said.startswith(f"data.batch_size {memory.largest_batch * devices}")
    fitting = recipe(data__batch_size=memory.largest_batch * devices, data__images=160)
    found = forecast_of(fitting, gpus=devices, machine=tiny).memory
    assert found.fits == "yes" and found.most > 0.9 * tiny.memory and found.instead == ()
    larger = recipe(data__batch_size=(memory.largest_batch + 1) * devices, data__images=160)
    assert forecast_of(larger, gpus=devices, machine=tiny).memory.fits != "yes"


def test_only_what_fits_is_said_to():
    joint = recipe(data__batch_size=64)
    lean = forecast_of(recipe(data__batch_size=64, method__schedule="lean"), machine=FLOPS_ALONE).memory
    half = forecast_of(recipe(data__batch_size=64, training__precision="bf16-mixed"), machine=FLOPS_ALONE).memory
    for name, least in (("method.schedule lean,", lean), ("training.precision 16-mixed", half)):
        for memory in (least.most - 1e5, least.most + 1e5):
            machine = tiny_machine(memory, fp16=2e9)
            said = forecast_of(joint, machine=machine).memory.instead
            assert any(what.startswith(name) for what in said) == (memory > least.most)
    nothing = forecast_of(joint, machine=tiny_machine(1e5)).memory
    assert nothing.largest_batch == 0 and nothing.instead == (
        "nothing that a plan tries: a device with more memory, or a smaller model",
    )


def test_small_images_lie_on_the_device_and_no_batch_is_larger_than_they_are():
    found = forecast_of(load_recipe("digits"), machine=tiny_machine(1e12))
    assert found.memory.images == (found.training + found.validation) * (8 + 2 * 1) ** 2
    assert found.memory.largest_batch == found.training


@pytest.mark.parametrize(
    "sampler",
    [
        "ordered",
        {"name": "ordered", "ranges": [[2, 3], [1, 2], [3, 3]]},
        "suffix",
        "every_other",
        {"name": "interstage", "ranges": [[3, 3], [1, 2], [2, 3]]},
        {"name": "unordered", "keep": 0.7},
        {"name": "unordered", "keep": 0.3, "ranges": [[2, 3], [2, 2], [1, 3]]},
        "late",
        {"name": "late", "whole": 0.8},
        "nested",
        {"name": "nested", "decay": 0.9},
        "halves",
        {"name": "halves", "together": False},
        {"name": "ranked", "order": [[1, 2, 0], [0, 2, 1], [2, 1, 0]], "ranges": [[2, 3], [1, 2], [3, 3]]},
    ],
    ids=str,
)
def test_odds_are_how_often_subnets_are_drawn(sampler):
    space = SubnetSpace(lengths=(3, 3, 3), fixed=(False, True, False))
    draw = resolve_sampler(sampler, space)
    odds = odds_of(draw, space)
    assert odds.drawn is None and sum(odds.of.values()) == pytest.approx(1)
    generator, draws = torch.Generator().manual_seed(1), 3_000
    drawn = Counter(draw(space, generator) for _ in range(draws))
    assert set(drawn) <= set(odds.of)
    for subnet, chance in odds.of.items():
        assert abs(drawn[subnet] - draws * chance) < 5 * (draws * chance * (1 - chance)) ** 0.5 + 1


def test_a_sampler_that_cannot_be_listed_is_drawn_from_and_that_is_said():
    found = forecast_of(recipe(method__sampler="interstage"), machine=FLOPS_ALONE)
    assert found.step.estimate == "from 4,000 draws of the sampler"
    assert any("is an estimate" in warning for warning in found.warnings)


def test_the_command_plans_without_downloading(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STIMULATIVE_DATA", str(tmp_path))
    words = ["plan", "cifar100-resnet20", "--gpu", "h200", "--gpus", "2", "--price-per-hour", "3", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["validation"], found["test"]) == (5_000, 10_000) and found["opened"] is False
    assert found["training"] == found["steps_per_epoch"] * found["batch"] * 2 <= 45_000  # whole batches for both
    device_hours = (2 * found["train_seconds"]["typical"] + found["evaluate_seconds"]["typical"]) / 3600
    assert found["money"]["typical"] == pytest.approx(3 * device_hours)
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_is_counted_and_what_is_assumed(capsys):
    assert main(["plan", "digits", "--gpu", "t4"]) == 0
    told = capsys.readouterr().out
    for words in ("(exact)", "time, an estimate", "short of:", "fits into", "datasheet", "27 subnets"):
        assert words in told


def test_a_step_is_told_from_an_update_of_several_batches(capsys):
    words = ["plan", "digits", "--gpu", "t4", "--training.accumulate", "3", "--method.name", "stochastic_depth"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "updates of 3 batches" in told and "samples a batch and device" in told and "\nbatch: " in told
    assert " step" not in told.split("note:")[0].replace("steps of the method", "")
    assert "% less, on average" in told and "-" not in told.split("\n")[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits", "--gpu", "h20"], "known: h200, h100"),
        (["digits", "--gpu", "H100"], "did you mean 'h100'?"),
        (["digits", "--gpu", "t4", "--gpus", "64"], "data.batch_size: a device gets one sample a step"),
        (["digits", "--gpus", "2"], "--gpus 2: of this processor there is one"),
        (["digits", "--training.devices", "2"], "name a GPU (--gpu)"),
        (["digits", "--gpus", "0"], "--gpus is 1 or more"),
        (["digits", "--price-per-hour", "-1"], "--price-per-hour is 0 or more"),
        (["digits", "--images", "many"], "--images"),
        (["digits", "--gpu", "t4", "--images", "100,10"], "digits says itself how many it has"),
        (["imagenet-resnet50", "--gpu", "t4"], "say how many images there will be: --images"),
        (["imagenet-resnet50", "--gpu", "t4", "--images", "1"], "leave none"),
    ],
)
def test_what_cannot_be_planned_is_told(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", *words]) == 2
    assert message in capsys.readouterr().err


def test_datasheets_are_ordered_as_they_should_be():
    for gpu in GPUS.values():
        assert gpu.source and gpu.memory and gpu.rate("fp64") < gpu.rate("fp32") <= gpu.rate("tf32") <= gpu.rate("fp16")
    assert GPUS["t4"].rate("bf16") == GPUS["t4"].rate("fp32")
