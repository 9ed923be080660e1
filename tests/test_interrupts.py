"""What interrupts a call leaves the model as it was; threads that share a model get right outputs."""

import random
import signal
import threading
import time

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import stimulative
from stimulative.errors import UsageError
from stimulative.models import build
from stimulative.residual.access.undisturbed import step, uncut, undisturbed

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def alarm():
    """SIGALRM interrupts as Ctrl-C does."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    torch.set_num_threads(threads)


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return build("cifar/resnet20", classes=10, channels=1, arguments={"width": 4}).eval()


def everything_of(model: nn.Module) -> dict[str, object]:
    """All that a module has: its attributes, its hooks, its mode, its parameters and what they ask for."""
    found: dict[str, object] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers"):
                for own, tensor in value.items():
                    found[f"{name}.{own}"] = None if tensor is None else (id(tensor), tensor.tolist())
                    found[f"{name}.{own}.grad"] = None if tensor is None else tensor.requires_grad
            else:
                found[f"{name}.{key}"] = list(value) if "hooks" in key or key == "_modules" else repr(value)
    return found


def unraveled(model, network):
    stimulative.unravel(model, X)


def recalibrated(model, network):
    network.recalibrate([X, X], ["1-1-1", "2-2-2", "3-3-3"])


def extracted(model, network):
    stimulative.extract(network, "1-2-1", [X])


@pytest.mark.parametrize("call", [unraveled, recalibrated, extracted])
def test_an_interrupt_leaves_the_model_as_it_was(call):
    """At random moments; that it holds at all of them follows from the tests below."""
    model = fresh()
    network = stimulative.unravel(model, X)
    want = network(X, "2-2-2")
    call(model, network)  # the first one takes longer
    before = everything_of(model)
    began = time.perf_counter()
    call(model, network)
    lasts = time.perf_counter() - began
    assert everything_of(model) == before
    moments, interrupted = random.Random(5), 0
    for _ in range(300):
        if interrupted == 20:
            break
        try:
            signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.0002, lasts))
            call(model, network)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupted += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert everything_of(model) == before
    assert interrupted == 20
    assert torch.equal(network(X, "2-2-2"), want)


class Slow:
    """Something that is changed for a while, slowly, and put back, slowly."""

    def __init__(self) -> None:
        self.state, self.seen = "as it was", []

    @undisturbed
    def use(self) -> str:
        self.seen.append(threading.current_thread())
        self.state = "changed"
        try:
            for _ in range(100):
                time.sleep(0.01)
                step()
        finally:
            time.sleep(0.2)
            self.state = "as it was"
        return "done"

    @uncut
    def change(self) -> None:
        self.state = "half changed"
        time.sleep(0.2)
        step()
        self.state = "changed"


def test_the_work_is_done_where_no_signal_arrives_and_ends_early():
    slow = Slow()
    began = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(KeyboardInterrupt):
        slow.use()
    assert slow.state == "as it was" and slow.seen[0] is not threading.main_thread()
    assert time.perf_counter() - began < 0.9


def test_a_second_interrupt_while_it_is_put_back_changes_nothing():
    slow = Slow()
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.03)
    with pytest.raises(KeyboardInterrupt):
        try:
            slow.use()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    assert slow.state == "as it was"


def test_what_changes_a_model_for_good_is_done_whole():
    slow = Slow()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(KeyboardInterrupt):
        slow.change()
    assert slow.state == "changed"


def test_errors_and_values_come_through_and_calls_within_calls_are_made_at_once():
    @undisturbed
    def outer(fails: bool) -> object:
        return inner(fails), threading.current_thread()

    @undisturbed
    def inner(fails: bool) -> object:
        if fails:
            raise ZeroDivisionError("by nothing")
        return threading.current_thread()

    first, second = outer(False)
    assert first is second and first is not threading.main_thread()
    with pytest.raises(ZeroDivisionError, match="by nothing"):
        outer(True)


@undisturbed
def state() -> tuple[object, ...]:
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    return *modes, torch.get_autocast_dtype("cpu"), torch.get_default_device().type, torch.get_num_threads()


def test_it_computes_as_its_caller_does():
    assert state() == (True, False, False, torch.bfloat16, "cpu", 1)
    with torch.no_grad():
        assert state()[:2] == (False, False)
    with torch.inference_mode():
        assert state()[:2] == (False, True)
    with torch.autocast("cpu", dtype=torch.float16):
        assert state()[2:4] == (True, torch.float16)
    with torch.device("meta"):
        assert state()[4] == "meta"


def test_modes_that_count_in_their_own_thread_count():
    network = stimulative.unravel(fresh(), X)
    with FlopCounterMode(display=False) as counter:
        network.recalibrate([X], ["1-1-1"])
    assert counter.get_total_flops() > 0


def test_subnets_that_run_beside_recalibration_are_right():
    network = stimulative.unravel(fresh(), X)
    with torch.no_grad():
        want = network(X, "1-1-1")
    ended, outputs = threading.Event(), []

    def serve():
        with torch.no_grad():
            while not ended.is_set():
                outputs.append(network(X, "1-1-1"))

    thread = threading.Thread(target=serve)
    thread.start()
    for _ in range(20):
        network.recalibrate([X, X], ["1-1-1", "2-2-2"])
    ended.set()
    thread.join()
    assert len(outputs) > 5 and all(torch.equal(output, want) for output in outputs)


def test_a_call_from_within_a_subnet_is_refused_as_ever():
    network = stimulative.unravel(fresh(), X)
    with network.only("1-1-1"):
        with pytest.raises(UsageError, match="already running a subnet in this thread"):
            network.recalibrate([X], ["1-1-1"])
        with pytest.raises(UsageError, match="already running a subnet in this thread"):
            stimulative.extract(network, "1-1-1", "keep")
    network.recalibrate([X], ["1-1-1"])


def test_a_module_that_is_being_imported_may_unravel(tmp_path, monkeypatch):
    package = tmp_path / "package_of_mine"
    package.mkdir()
    (package / "inner.py").write_text("value = 1\n")
    (package / "__init__.py").write_text(
        "import torch, stimulative\n"
        "from torch import nn\n"
        "class Block(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.inner = nn.Linear(4, 4)\n"
        "    def forward(self, x):\n"
        "        from package_of_mine import inner\n"
        "        return x + self.inner(x)\n"
        "network = stimulative.unravel(nn.Sequential(Block(), Block(), Block()), torch.randn(2, 4))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import package_of_mine  # pyright: ignore[reportMissingImports]

    assert package_of_mine.network.space.count == 3
