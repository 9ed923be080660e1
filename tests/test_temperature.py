"""Fitted temperatures: against known answers, against a minimiser, and in what a run writes down."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from nets import CLASSES, SequentialNet, images, randomised
from scipy.optimize import minimize_scalar
from torch import Tensor

from stimulative import unravel
from stimulative.analysis import evaluate, open_run
from stimulative.errors import UsageError
from stimulative.runs import Family
from stimulative.studies import destroy
from stimulative.training import fit_temperatures, load_recipe, measure, train
from stimulative.training.temperature import LossCurve

TINY = {
    "model.arguments": {"width": 4},
    "schedule.epochs": 1,
    "training.threads": 1,
    "training.loggers": [],
    "evaluation.calibration_images": 128,
}


def made_up(samples: int, classes: int, *, spread: float = 1.5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Calibrated logits: the labels are drawn from the probabilities that they say."""
    generator = torch.Generator().manual_seed(seed)
    z = spread * torch.randn(samples, classes, generator=generator)
    return z, torch.multinomial(z.softmax(-1), 1, generator=generator)[:, 0]


def fitted(z: Tensor, y: Tensor, batch: int = 1000) -> float:
    curve = LossCurve()
    for start in range(0, len(y), batch):
        curve.add(z[start : start + batch], y[start : start + batch])
    return curve.temperature()


@pytest.mark.parametrize("factor", [1.0, 3.0, 0.01, 500.0])
def test_logits_scaled_up_need_just_that_temperature(factor):
    z, y = made_up(20_000, 10)
    assert fitted(factor * z, y) == pytest.approx(factor, rel=0.03)  # the labels are 20,000 draws
    assert fitted(factor * z, y) == pytest.approx(factor * fitted(z, y), rel=1e-4)


@pytest.mark.parametrize(
    ("classes", "spread", "wrong"), [(2, 1.0, 2.0), (10, 3.0, 0.4), (100, 1.0, 5.0), (300, 2.5, 1.0)]
)
def test_the_temperature_is_the_one_that_a_minimiser_finds(classes, spread, wrong):
    z, y = made_up(2_000, classes, spread=spread, seed=classes)
    z = wrong * z * torch.rand(len(y), 1, generator=torch.Generator().manual_seed(1))  # no temperature is exact

    def loss(log: float) -> float:
        return F.cross_entropy(z.double() / math.exp(log), y).item()

    found = minimize_scalar(loss, bracket=(-1.0, 1.0), options={"xtol": 1e-10})
    assert found.success
    assert fitted(z, y, batch=300) == pytest.approx(math.exp(found.x), rel=1e-3)


def test_a_case_worked_out_by_hand():
    # Two classes, logits (2, 0), three of four samples of the first class: the loss is least where the probability of
    # the first class is 3/4, so exp(2 / T) = 3 and T = 2 / ln 3 = 1.820478.
    z = torch.tensor([[2.0, 0.0]] * 4)
    assert fitted(z, torch.tensor([0, 0, 0, 1])) == pytest.approx(1.820478, rel=1e-3)


def test_where_nothing_is_wrong_targets_are_smoothed():
    # Two classes a distance of 1 apart, four samples, all right: one in six is spread over both classes, so the least
    # loss is at the probability 11/12, exp(1 / T) = 11 and T = 1 / ln 11 = 0.417032. Without it T would be 0.
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [5.0, 4.0]])
    assert fitted(z, torch.tensor([0, 1, 0, 0])) == pytest.approx(0.417032, rel=1e-3)


def test_logits_that_say_nothing_get_the_greatest_temperature_looked_at():
    z, y = made_up(500, 4)
    worse_than_chance = z.argmin(-1)
    assert fitted(z, worse_than_chance) == pytest.approx(100 * float(z.std(-1, correction=0).mean()), rel=1e-3)
    assert fitted(torch.ones(8, 4), y[:8]) == 1.0
    assert fitted(torch.full((8, 4), math.nan), y[:8]) == 1.0


def network_and_batches():
    torch.manual_seed(0)
    network = unravel(randomised(SequentialNet()).float(), images(dtype=torch.float32))
    generator = torch.Generator().manual_seed(1)
    batches = [
        (images(30, seed=seed, dtype=torch.float32), torch.randint(CLASSES, (30,), generator=generator))
        for seed in range(4)
    ]
    return network, batches


def test_each_subnet_gets_its_own_with_its_statistics():
    network, batches = network_and_batches()
    subnets = [network.full, *(network.resolve(text) for text in ("1-1", "2-3", "3-4"))]
    statistics = network.recalibrate(batches, subnets)
    looked = []
    found = fit_temperatures(
        network, batches, subnets, statistics=statistics, after_batch=lambda: looked.append(network.training)
    )
    assert looked == [False] * 4 and network.training
    assert len(set(found)) == 3 and found[0] == found[3]
    with torch.no_grad():
        network.eval()
        for subnet, temperature in zip(subnets, found, strict=True):
            z = torch.cat([network(x, subnet, statistics=statistics) for x, _ in batches])
            assert temperature == pytest.approx(fitted(z, torch.cat([y for _, y in batches])), rel=1e-3)


def test_measuring_at_a_temperature_changes_the_loss_alone():
    network, batches = network_and_batches()
    subnets = [network.full, network.resolve("1-1")]
    plain = measure(network, batches, subnets)
    scaled = measure(network, batches, subnets, temperatures=[1.0, 4.0])
    assert plain[0] == scaled[0] and plain[1].quality == scaled[1].quality
    with torch.no_grad():
        network.eval()
        expected = [F.cross_entropy(network(x, "1-1") / 4, y).item() for x, y in batches]
    assert scaled[1].loss == pytest.approx(sum(expected) / 4, rel=1e-5) and scaled[1].loss != plain[1].loss
    with pytest.raises(UsageError, match="2 subnets need as many temperatures, got 1"):
        measure(network, batches, subnets, temperatures=[1.0])


def test_there_has_to_be_something_to_fit_on():
    network, _ = network_and_batches()
    with pytest.raises(UsageError, match="nothing to measure on: the data set has no batch"):
        fit_temperatures(network, [])


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "calibrated"
    recipe = load_recipe("digits", {**TINY, "method.objective": "directional", "method.normalise_main": True})
    summary = train(recipe, out, progress=False)
    return out, summary, evaluate(out, latency=False, subnets=["1-1-1", "1-3-2", "3-2-1", "3-3-3"])


def test_a_run_writes_the_temperature_of_its_main_net(calibrated):
    out, trained, evaluated = calibrated
    main = trained["main"]
    assert main["temperature"] > 0 and abs(main["temperature"] - 1) > 1e-3
    assert evaluated["main"] == main == json.loads((out / "summary.json").read_text())["main"]
    run = open_run(out)
    network, data = run.network, run.data
    assert run.method.calibrates
    assert fit_temperatures(network, data.validation) == [pytest.approx(main["temperature"], rel=1e-3)]
    (score,) = measure(network, data.test, temperatures=[main["temperature"]])
    assert score.loss == pytest.approx(main["loss"], rel=1e-4)
    (raw,) = measure(network, data.test)
    assert raw.quality == main["top1"] and raw.loss > main["loss"]


def test_the_validation_loss_of_the_log_is_that_of_scaled_logits(calibrated):
    from stimulative.runs import read_metrics

    out, *_ = calibrated
    for row in read_metrics(out / "metrics.csv"):
        assert (
            float(row["validation_loss"]) <= math.log(10) + 1e-6
        )  # at a fitted temperature no worse than knowing nothing


def test_every_subnet_has_its_temperature_in_the_table(calibrated):
    out, trained, _ = calibrated
    family = list(Family.read(out / "subnets.csv"))
    temperatures = [member.temperature for member in family]
    assert len(family) == 4 and all(temperatures) and len(set(temperatures)) == 4
    assert family[-1].temperature == pytest.approx(trained["main"]["temperature"], rel=0.2)
    assert max(member.score.loss for member in family) < math.log(10) + 0.2


def test_losses_of_a_destroyed_net_are_at_the_temperature_of_the_net_itself(calibrated, tmp_path):
    out, trained, _ = calibrated
    row = next(row for row in destroy([out], tmp_path, draws=1).single if not row.recalibrated)
    run = open_run(out)
    subnet = run.network.resolve(row.subnet)
    (score,) = measure(run.network, run.data.test, [subnet], temperatures=[trained["main"]["temperature"]])
    assert (row.quality, row.loss) == (pytest.approx(score.quality, rel=1e-4), pytest.approx(score.loss, rel=1e-4))
