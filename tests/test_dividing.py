"""Evaluation and recalibration that several processes divide give what one process gives, to the last bit."""

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from nets import CLASSES, SequentialNet, images, randomised
from torch import Tensor

import stimulative
from stimulative.data import every
from stimulative.data.batches import ChangedLoader, LazyLoader
from stimulative.data.images import ImageLoader, fixed_order
from stimulative.data.pixels import Normalisation
from stimulative.errors import UsageError
from stimulative.ranks import Division, divided
from stimulative.tasks import Classification, Measurement, Meter, OwnTask, task_named
from stimulative.tasks.meters import ClassMeter
from stimulative.training import measure, measure_and_fit


def together(work: Callable[[], Any], size: int) -> list[Any]:
    """What each of several threads returns that stand for processes and divide the work; they compute in turn."""
    waiting, turn = threading.Barrier(size, timeout=60), threading.Lock()
    sent: list[Any] = [None] * size
    found: list[Any] = [None] * size

    def rank(number: int) -> None:
        def gather(value: Any) -> list[Any]:
            sent[number] = value
            turn.release()
            waiting.wait()
            values = pickle.loads(pickle.dumps(sent))
            waiting.wait()
            turn.acquire()
            return values

        with turn, divided(Division(number, size, gather)):
            found[number] = work()

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    return found


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_task(name: str, seed: int) -> tuple[Tensor, Tensor]:
    """A batch of outputs, and of targets, of a task; batches are unlike in size."""
    count = 3 + seed % 4
    outputs, other = drawn(count, 5, seed=seed), drawn(count, 5, seed=100 + seed)
    if name == "images":
        return outputs, other.argmax(1)
    if name == "text":
        targets = drawn(count, 4, 5, seed=200 + seed).argmax(-1)
        targets[0, seed % 4 :] = -100
        return drawn(count, 4, 5, seed=seed), targets
    if name == "multilabel":
        return outputs, (other > 0).float()
    if name == "segmentation":
        return drawn(count, 3, 4, 4, seed=seed), drawn(count, 3, 4, 4, seed=300 + seed).argmax(1)
    if name == "image_to_image":
        return drawn(count, 3, 4, 4, seed=seed), drawn(count, 3, 4, 4, seed=400 + seed)
    return outputs, other


OWN = OwnTask(lambda outputs, targets: (outputs - targets).abs().mean(), score=lambda outputs, targets: outputs.mean())


@pytest.mark.parametrize(
    "name", ["images", "text", "multilabel", "segmentation", "regression", "image_to_image", "embedding", "own"]
)
def test_sums_of_batches_put_together_in_order_are_those_of_all_batches(name):
    task = OWN if name == "own" else task_named(name)
    batches = [of_task(name, seed) for seed in range(7)]
    whole, joined = task.meter(temperature=1.5), task.meter(temperature=1.5)
    for outputs, targets in batches:
        whole.add(outputs, targets)
        alone = task.meter(temperature=1.5)
        alone.add(outputs, targets)
        joined.put_together(alone.sums())
    assert joined.samples == whole.samples > 0
    assert joined.measured() == whole.measured()


def test_a_meter_of_ones_own_says_what_it_adds_up_or_is_refused_where_work_is_divided():
    class Hits(Meter):
        def __init__(self) -> None:
            super().__init__()
            self.hits = 0

        def add(self, outputs: Tensor, targets: Tensor) -> None:
            self.hits += int((outputs.argmax(-1) == targets).sum())
            self._add_loss(outputs.sum(), len(targets))

        def measured(self) -> Measurement:
            return Measurement(100 * self.hits / self.samples, self._mean_loss(), {}, {})

    class Told(Hits):
        summed = ("hits",)

    class More(ClassMeter):
        def add(self, outputs: Tensor, targets: Tensor) -> None:
            super().add(outputs, targets)

    network = stimulative.unravel(SequentialNet(), images(2).float())
    batches = [(images(3, seed=seed).float(), torch.arange(3) % CLASSES) for seed in range(3)]

    def work(meter: type[Meter]) -> Any:
        class Aim(Classification):
            def meter(self, *, temperature: float = 1.0) -> Any:
                return meter()

        try:
            return measure(network, batches, aim=Aim())[0]
        except UsageError as error:
            return str(error)

    for meter in (Hits, More):
        alone = work(meter)
        assert work(Told) == work(Hits) and not isinstance(alone, str)
        for found in together(lambda meter=meter: work(meter), 2):
            assert found.startswith(f"{meter.__name__} does not say what it adds up") and "set its attribute" in found
    assert together(lambda: work(Told), 2) == [work(Hits)] * 2


@pytest.mark.parametrize("size", [2, 3])
def test_scores_temperatures_and_statistics_are_those_of_one_process(size):
    batches = [(images(3, seed=seed).float(), torch.arange(3) % CLASSES) for seed in range(5)]
    net = randomised(SequentialNet()).float()

    def work() -> Any:
        network = stimulative.unravel(copy.deepcopy(net), images(2).float())
        subnets = [network.full, network.space.smallest]
        statistics = network.recalibrate(batches, subnets, images=14)
        scores, temperatures = measure_and_fit(network, batches, subnets, statistics=statistics)
        again = measure(network, batches, subnets, statistics=statistics, temperatures=temperatures)
        nodes = {(node, name): values for node, of in statistics.nodes.items() for name, values in of.items()}
        return statistics.images, nodes, scores, temperatures, again

    alone = work()
    for found in together(work, size):
        assert (found[0], *found[2:]) == (alone[0], *alone[2:]) and found[0] == 14
        assert found[1].keys() == alone[1].keys()
        for key, values in alone[1].items():
            assert all(torch.equal(one, other) for one, other in zip(values, found[1][key], strict=True)), key


class Grey:
    """Images of one grey each, its number; ``seen`` has those that were read."""

    def __init__(self, count: int) -> None:
        self.count, self.seen = count, []

    def __len__(self) -> int:
        return self.count

    def read(self, number: int) -> int:
        self.seen.append(number)
        return number

    def target(self, number: int) -> Tensor:
        return torch.tensor(number)

    def origin(self, number: int) -> str:
        return str(number)


def test_a_loader_of_files_reads_no_images_of_others_batches():
    grey = Grey(10)
    loader = ImageLoader(
        grey,
        lambda image, target: (torch.full((3, 2, 2), image, dtype=torch.uint8), target),
        fixed_order(torch.from_numpy(np.arange(10))),
        count=10,
        batch_size=3,
        workers=0,
        device=torch.device("cpu"),
        normalisation=Normalisation((0.5,) * 3, (0.5,) * 3, torch.device("cpu")),
        std=(0.5,) * 3,
    )
    wrapped = ChangedLoader(LazyLoader(lambda: loader), lambda batch: (batch[0], batch[1] + 100))
    assert [y.tolist() for _, y in every(wrapped, 1, 2)] == [[103, 104, 105], [109]]
    assert grey.seen == [3, 4, 5, 9]
    assert [y.tolist() for _, y in loader] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert list(every(range(7), 2, 3)) == [2, 5]
