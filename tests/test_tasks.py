"""What networks are for: losses and divergences against plain references, targets that do not fit, in every door."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import stimulative
from stimulative.errors import UsageError
from stimulative.integrations.lightning import StimulativeCallback
from stimulative.methods import CommonTraining, GroupKnowledge, LayerSupervision, SelfDistillation, StimulativeTraining
from stimulative.methods import StochasticDepth as Depth
from stimulative.tasks import Classification, Embedding, MultiLabel, OwnTask, Regression, Segmentation, resolve_task

BATCH = 6


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.a(x.relu())


class Net(nn.Module):
    """Three blocks, and outputs of some number: of each pixel, or pooled."""

    def __init__(self, outputs: int, *, pooled: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.head = nn.Conv2d(8, outputs, 1)
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        z = self.head(self.blocks(self.stem(x)))
        return z.mean((2, 3)) if self.pooled else z


def net(outputs: int, *, pooled: bool = True) -> Net:
    torch.manual_seed(0)
    return Net(outputs, pooled=pooled).double()


def images(size: int = 8) -> Tensor:
    return torch.randn(BATCH, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def numbers(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def whole(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(3))


def bernoulli_kl(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = teacher.sigmoid(), student.sigmoid()
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()


def softmax_kl(student: Tensor, teacher: Tensor, dim: int, counted: Tensor | None = None) -> Tensor:
    p, q = teacher.softmax(dim), student.softmax(dim)
    each = (p * (p.log() - q.log())).sum(dim)
    return each.mean() if counted is None else each[counted].mean()


IGNORED_PIXELS = whole(4, BATCH, 8, 8)
IGNORED_PIXELS[:, :2] = 255
IGNORED_PIXELS[0] = -100
KNOWN = (IGNORED_PIXELS != 255) & (IGNORED_PIXELS != -100)
UNKNOWN_LABELS = whole(2, BATCH, 5).double()
UNKNOWN_LABELS[0, :3] = -100
SOFT = numbers(BATCH, 5).softmax(1)
MIXED_PIXELS = numbers(BATCH, 4, 8, 8).softmax(1)

Loss = Callable[[Tensor, Any], Tensor]
Divergence = Callable[[Tensor, Tensor], Tensor]

CASES: Mapping[str, tuple[Any, int, bool, Any, Loss, Divergence]] = {
    # task, outputs, whether pooled, targets, plain loss, plain divergence
    "classes": (None, 5, True, whole(5, BATCH), F.cross_entropy, lambda s, t: softmax_kl(s, t, 1)),
    "soft labels": (None, 5, True, SOFT, F.cross_entropy, lambda s, t: softmax_kl(s, t, 1)),
    "labels (B, 1)": (
        *("classification", 5, True, whole(5, BATCH, 1)),
        lambda z, y: F.cross_entropy(z, y[:, 0]),
        lambda s, t: softmax_kl(s, t, 1),
    ),
    "one logit, 0 and 1": (
        *(None, 1, True, whole(2, BATCH)),
        lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.double()),
        bernoulli_kl,
    ),
    "one logit, all 0": (
        *(None, 1, True, torch.zeros(BATCH, dtype=torch.long)),
        lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.double()),
        bernoulli_kl,
    ),
    "one logit, (B, 1) floats": (
        *(None, 1, True, numbers(BATCH, 1)),
        F.binary_cross_entropy_with_logits,
        bernoulli_kl,
    ),
    "multi-label": (
        *("multilabel", 5, True, whole(2, BATCH, 5)),
        lambda z, y: F.binary_cross_entropy_with_logits(z, y.double()),
        bernoulli_kl,
    ),
    "segmentation": (
        *("segmentation", 4, False, whole(4, BATCH, 8, 8)),
        F.cross_entropy,
        lambda s, t: softmax_kl(s, t, 1),
    ),
    "segmentation, as wide as classes": (
        *("segmentation", 8, False, whole(8, BATCH, 8, 8)),
        F.cross_entropy,
        lambda s, t: softmax_kl(s, t, 1),
    ),
    "segmentation, some pixels ignored": (
        *("segmentation", 4, False, IGNORED_PIXELS),
        lambda z, y: F.cross_entropy(z, y.where(KNOWN, torch.tensor(-100))),
        lambda s, t: softmax_kl(s, t, 1, KNOWN),
    ),
    "segmentation, mixed": (
        *("segmentation", 4, False, MIXED_PIXELS),
        F.cross_entropy,
        lambda s, t: softmax_kl(s, t, 1),
    ),
    "segmentation, one logit": (
        *("segmentation", 1, False, whole(2, BATCH, 1, 8, 8)),
        lambda z, y: F.binary_cross_entropy_with_logits(z, y.double()),
        bernoulli_kl,
    ),
    "segmentation of twice the resolution": (
        *("segmentation", 4, False, whole(4, BATCH, 16, 16)),
        lambda z, y: F.cross_entropy(F.interpolate(z, (16, 16), mode="bilinear"), y),
        lambda s, t: softmax_kl(*(F.interpolate(z, (16, 16), mode="bilinear") for z in (s, t)), 1),
    ),
    "regression": ("regression", 3, True, -10 * numbers(BATCH, 3), F.mse_loss, F.mse_loss),
    "regression of one number": (
        *("regression", 1, True, numbers(BATCH)),
        lambda z, y: F.mse_loss(z[:, 0], y),
        F.mse_loss,
    ),
    "images of images": ("regression", 3, False, numbers(BATCH, 3, 8, 8), F.mse_loss, F.mse_loss),
    "embeddings": (
        *("embedding", 7, True, numbers(BATCH, 7)),
        lambda z, y: (1 - F.cosine_similarity(z, y)).mean(),
        lambda s, t: (1 - F.cosine_similarity(s, t)).mean(),
    ),
    "embeddings without labels": (
        *(Embedding("squared"), 7, True, None),
        lambda z, y: 0 * z.sum(),
        F.mse_loss,
    ),
    "a task of one's own": (
        *(OwnTask(F.l1_loss, lambda s, t, y: F.smooth_l1_loss(s, t)), 3, False, numbers(BATCH, 3, 8, 8)),
        F.l1_loss,
        F.smooth_l1_loss,
    ),
}


def plain_gradients(model: Net, y: Any, loss: Loss, divergence: Divergence) -> tuple[float, float, list[Tensor]]:
    """The step as anybody would write it: main net, and the net of the first block alone."""
    x = images()
    main = model(x)
    short = copy.copy(model)
    z = model.head(model.blocks[0](model.stem(x)))
    small = z.mean((2, 3)) if short.pooled else z
    main_loss, kl = loss(main, y), divergence(small, main.detach())
    gradients = torch.autograd.grad(main_loss + 0.7 * kl, list(model.parameters()), materialize_grads=True)
    return float(main_loss), float(kl), list(gradients)


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize("case", CASES)
def test_a_step_is_the_plain_one(case: str, schedule: Any):
    task, outputs, pooled, y, loss, divergence = CASES[case]
    model = net(outputs, pooled=pooled)
    wanted = plain_gradients(model, y, loss, divergence)
    method = StimulativeTraining(stimulative.unravel(model, images()), balance=0.7, task=task, schedule=schedule)
    terms = method.backward(images(), y, ["1"])
    assert float(terms.main_ce) == pytest.approx(wanted[0], abs=1e-12)
    assert float(terms.subnet_kl) == pytest.approx(wanted[1], abs=1e-12)
    for parameter, gradient in zip(model.parameters(), wanted[2], strict=True):
        given = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(given, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_beside_a_loss_of_ones_own_the_gradients_are_the_same(case: str):
    task, outputs, pooled, y, loss, divergence = CASES[case]
    model = net(outputs, pooled=pooled)
    wanted = plain_gradients(model, y, loss, divergence)[2]
    method = StimulativeTraining(
        stimulative.unravel(model, images()), balance=0.7, task=task, sampler=first_block
    ).train()
    with method.beside(y) as subnets:
        total = loss(model(images()), y)
    (total + subnets.term).backward()
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        given = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(given, gradient, rtol=1e-9, atol=1e-12)


def first_block(space: Any, generator: Any) -> Any:
    return stimulative.Subnet.parse("1")


def test_subnets_on_part_of_a_batch_see_the_targets_of_their_samples():
    y = IGNORED_PIXELS
    model = net(4, pooled=False)
    method = StimulativeTraining(stimulative.unravel(model, images()), task="segmentation", subnet_share=0.5)
    terms = method(images(), y, ["1"])
    with torch.no_grad():
        x = images()
        small = model.head(model.blocks[0](model.stem(x)))[:3]
        expected = softmax_kl(small, model(x)[:3], 1, KNOWN[:3])
    assert float(terms.subnet_kl) == pytest.approx(float(expected), abs=1e-12)


def test_unknown_labels_do_not_count():
    model = net(5)
    method = StimulativeTraining(stimulative.unravel(model, images()), task="multilabel")
    terms = method(images(), UNKNOWN_LABELS, ["1"])
    known = UNKNOWN_LABELS != -100
    with torch.no_grad():
        x = images()
        main, small = model(x), model.head(model.blocks[0](model.stem(x))).mean((2, 3))
        loss = F.binary_cross_entropy_with_logits(main[known], UNKNOWN_LABELS[known])
        kl = bernoulli_kl(small[known], main[known])
    assert float(terms.main_ce) == pytest.approx(float(loss), abs=1e-12)
    assert float(terms.subnet_kl) == pytest.approx(float(kl), abs=1e-12)


@pytest.mark.parametrize(
    ("task", "outputs", "pooled", "y", "message"),
    [
        (None, 3, True, -10 * numbers(BATCH, 3), "class probabilities.*task='multilabel'.*task='regression'"),
        (None, 5, True, whole(2, BATCH, 5).double(), "class probabilities.*task='multilabel'"),
        (
            None,
            3,
            False,
            numbers(BATCH, 3, 8, 8),
            "the model gives .6, 3, 8, 8.*task='segmentation'.*task='regression'",
        ),
        (None, 8, False, whole(8, BATCH, 8, 8), "task='segmentation'"),
        (None, 5, True, torch.arange(BATCH), "class indices are from 0 to 4 here.*got 0 to 5"),
        (None, 5, True, numbers(BATCH), "targets .6,. of float64"),
        (None, 1, True, 2 + whole(2, BATCH), "class indices are from 0 to 1"),
        (None, 5, True, None, "got targets NoneType"),
        ("multilabel", 5, True, whole(5, BATCH), "For one class of each sample say task='classification'"),
        ("multilabel", 5, True, 3 * numbers(BATCH, 5), "0 or 1 or a probability between"),
        ("segmentation", 4, True, whole(4, BATCH), "segmentation takes logits .batch, classes, height, width"),
        ("segmentation", 4, False, whole(4, BATCH, 8), "segmentation takes"),
        ("segmentation", 4, False, whole(4, BATCH, 8, 8) + 4, "class indices are from 0 to 3"),
        ("regression", 3, True, whole(3, BATCH), "y.float"),
        ("regression", 3, True, numbers(BATCH), "targets of the same shape"),
        ("embedding", 3, False, None, "embedding takes vectors"),
    ],
)
def test_targets_of_another_task_are_refused(task: Any, outputs: int, pooled: bool, y: Any, message: str):
    network = stimulative.unravel(net(outputs, pooled=pooled), images())
    for method in (
        CommonTraining(network, task=task),
        StimulativeTraining(network, task=task),
        Depth(network, task=task),
    ):
        with pytest.raises(UsageError, match=message):
            method(images(), y)


def test_beside_refuses_outputs_of_another_task():
    model = net(3, pooled=False)
    method = StimulativeTraining(stimulative.unravel(model, images())).train()
    with pytest.raises(UsageError, match="task='segmentation'"), method.beside():
        model(images())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "segmentatoin"}, "did you mean 'segmentation'"),
        ({"task": "regression", "objective": "directional"}, "objective: got 'directional'.*the task is regression"),
        ({"task": "multilabel", "normalise_main": True}, "normalise_main: got True"),
        ({"task": "regression", "temperature": 2.0}, "temperature: got 2.0"),
        ({"task": "regression", "label_smoothing": 0.1}, "label_smoothing: got 0.1"),
    ],
)
def test_settings_that_make_no_sense_of_a_task_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        StimulativeTraining(stimulative.unravel(net(3), images()), **settings)


def test_methods_say_what_they_can_train_for():
    network = stimulative.unravel(net(3, pooled=False), images())
    for method in (SelfDistillation, LayerSupervision):
        with pytest.raises(UsageError, match=f"{method.__name__} trains for classification.*got segmentation"):
            method(network, task="segmentation")


def test_groups_of_subnets_learn_numbers_from_each_other():
    model = net(3)
    y = numbers(BATCH, 3)
    method = GroupKnowledge(stimulative.unravel(model, images()), task="regression", loops=1, levels=1, balance=1.0)
    terms = method(images(), y, ["1"])
    with torch.no_grad():
        x = images()
        expected = F.mse_loss(model.head(model.blocks[0](model.stem(x))).mean((2, 3)), model(x))
    assert float(terms.subnet_kl) == pytest.approx(float(expected), abs=1e-12)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = net(6)
        self.box = nn.Linear(6, 4).double()

    def forward(self, x: Tensor) -> dict[str, Any]:
        z = self.trunk(x)
        return {"class": z, "extra": [self.box(z)]}


def test_a_task_of_ones_own_takes_structures():
    def loss(outputs: Any, targets: Any) -> Tensor:
        boxes = torch.stack([one["box"] for one in targets])
        labels = torch.tensor([one["label"] for one in targets])
        return F.cross_entropy(outputs["class"], labels) + F.l1_loss(outputs["extra"][0], boxes)

    def divergence(subnet: Any, main: Any, targets: Any) -> Tensor:
        assert len(targets) == len(subnet["class"])
        assert not main["class"].requires_grad
        return F.mse_loss(subnet["class"], main["class"]) + F.mse_loss(subnet["extra"][0], main["extra"][0])

    torch.manual_seed(0)
    model = TwoHeads()
    y = [{"label": number % 6, "box": numbers(4)} for number in range(BATCH)]
    network = stimulative.unravel(model, images())
    for share in (1.0, 0.5):
        method = StimulativeTraining(network, task=OwnTask(loss, divergence), subnet_share=share)
        terms = method(images(), y, ["1"])
        terms.loss.backward()
        assert terms.logits["class"].shape == (BATCH, 6)
        assert float(terms.subnet_kl) > 0
    with pytest.raises(UsageError, match="has no divergence"):
        StimulativeTraining(network, task=OwnTask(loss))(images(), y, ["1"])
    learned = StimulativeTraining(network, task=OwnTask(loss), objective="labels")(images(), y, ["1"])
    assert float(learned.subnet_kl) > 0
    with pytest.raises(UsageError, match="has to return a scalar tensor"):
        CommonTraining(network, task=OwnTask(lambda outputs, targets: outputs["class"]))(images(), y)


class Masks(nn.Module):
    """Logits in which two classes cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = net(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x).masked_fill(torch.tensor([False, False, False, True, True]), float("-inf"))


@pytest.mark.parametrize("objective", ["kl", "directional", "labels"])
def test_masked_classes_count_as_if_they_were_not_there(objective: Any):
    torch.manual_seed(0)
    masked, inside = Masks(), net(3)
    state = {key: value[:3] if key.startswith("head") else value for key, value in masked.inside.state_dict().items()}
    inside.load_state_dict(state)
    found = []
    for model in (masked, inside):
        method = StimulativeTraining(stimulative.unravel(model, images()), objective=objective)
        terms = method(images(), whole(3, BATCH), ["1"])
        terms.loss.backward()
        found.append((terms.loss.item(), terms.subnet_kl.item(), dict(model.named_parameters())))
    assert found[0][:2] == pytest.approx(found[1][:2], abs=1e-12)
    for name, parameter in found[1][2].items():
        same = found[0][2][f"inside.{name}"].grad
        assert parameter.grad is not None
        assert same is not None
        torch.testing.assert_close(same[:3] if name.startswith("head") else same, parameter.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("classification", Classification),
        ("multilabel", MultiLabel),
        ("segmentation", Segmentation),
        ("regression", Regression),
        ("embedding", Embedding),
    ],
)
def test_tasks_have_names(name: str, task: type):
    assert type(resolve_task(name)) is task


class Learner(LightningModule):
    def __init__(self, criterion: nn.Module, outputs: int) -> None:
        super().__init__()
        self.criterion = criterion
        self.model = net(outputs).float()

    def training_step(self, batch: Any, number: int) -> Tensor:
        x, y = batch
        return self.criterion(self.model(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.parametrize(
    ("criterion", "task", "y"),
    [
        (nn.BCEWithLogitsLoss(), "multilabel", whole(2, BATCH, 5).float()),
        (nn.MSELoss(), "regression", numbers(BATCH, 5).float()),
        (nn.CrossEntropyLoss(), None, whole(5, BATCH)),
    ],
)
def test_a_lightning_module_whose_loss_is_of_another_task_is_refused(criterion: nn.Module, task: Any, y: Tensor):
    loader = DataLoader(TensorDataset(images().float(), y), batch_size=BATCH)
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    if task is not None:
        with pytest.raises(UsageError, match=f"{type(criterion).__name__}.*task='{task}'"):
            Trainer(max_epochs=1, callbacks=[StimulativeCallback()], **quiet).fit(Learner(criterion, 5), loader)
    callback = StimulativeCallback(task=task) if task is not None else StimulativeCallback()
    Trainer(max_epochs=1, callbacks=[callback], **quiet).fit(Learner(criterion, 5), loader)
    assert callback.method is not None
    assert callback.method.task.name == (task or "classification")
