"""Layers that keep their number where no attribute shows it: a subnet's caches are right all the same."""

import copy
import functools
import types
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

import stimulative
from stimulative.residual import ResidualNetwork, Subnet, keep_only
from stimulative.residual.finding.numbers import constants_of, held_at, numbers_in

LAYERS, TOKENS = 4, 11


class Config(PretrainedConfig):
    model_type = "numbered"

    def __init__(self, how: str = "attribute", num_hidden_layers: int = LAYERS, **others: Any) -> None:
        super().__init__(**others)
        self.how, self.num_hidden_layers = how, num_hidden_layers


def remember(keys: Tensor, values: Tensor, cache: Any, layer_idx: int) -> tuple[Tensor, Tensor]:
    return (keys, values) if cache is None else cache.update(keys, values, layer_idx)


@dataclass(frozen=True)
class Slot:
    layer: int


class Memory(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.idx = number

    def forward(self, keys: Tensor, values: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
        return remember(keys, values, cache, self.idx)


class Layer(nn.Module):
    """A layer that reads its cache by a number that is kept in one of many ways."""

    def __init__(self, how: str, number: int, width: int = 6) -> None:
        super().__init__()
        self.qkv, self.out, self.how = nn.Linear(width, 3 * width), nn.Linear(width, width), how
        layer_idx = number
        if how == "attribute":
            self.layer_idx = number
        elif how == "keyword of a partial":
            self.cached = functools.partial(remember, layer_idx=number)
        elif how == "argument of a partial":
            self.cached = functools.partial(lambda layer_idx, *given: remember(*given, layer_idx), number)
        elif how == "closure":
            self.cached = lambda *given: remember(*given, layer_idx)
        elif how == "closure in a partial":
            self.cached = functools.partial(lambda cache, keys, values: remember(keys, values, cache, layer_idx))
        elif how == "default":
            self.cached = lambda keys, values, cache, layer_idx=number: remember(keys, values, cache, layer_idx)
        elif how == "default by name":
            self.cached = lambda keys, values, cache, *, layer_idx=number: remember(keys, values, cache, layer_idx)
        elif how == "list":
            self.layer_numbers = ["a layer", [number]]
        elif how == "mapping":
            self.settings = {"window": (3, 4), "layer": number}
        elif how == "object":
            self.slot = Slot(number)
        elif how == "module":
            self.memory = Memory(number)
        elif how == "tensor":
            self.layer_idx = torch.tensor(number)
        elif how == "buffer":
            self.register_buffer("layer_idx", torch.tensor([number]))
        elif how == "untold":
            self.who = (number,)

    @property
    def number(self) -> int:
        found = {
            "list": lambda: self.layer_numbers[1][0],
            "mapping": lambda: self.settings["layer"],
            "object": lambda: self.slot.layer,
            "untold": lambda: self.who[0],
        }
        return int(found.get(self.how, lambda: self.layer_idx)())

    def cached(self, keys: Tensor, values: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
        return self.memory(keys, values, cache) if self.how == "module" else remember(keys, values, cache, self.number)

    def forward(self, x: Tensor, cache: Any) -> Tensor:
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        k, v = self.cached(cache, k, v) if self.how == "closure in a partial" else self.cached(k, v, cache)
        causal = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        return x + self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=causal)[:, 0])


def of_its_own_class(how: str, layer_idx: int) -> nn.Module:
    class Own(Layer):
        def cached(self, keys: Tensor, values: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
            return remember(keys, values, cache, layer_idx)

    return Own(how, layer_idx)


class Numbered(PreTrainedModel):
    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        make = of_its_own_class if config.how == "class" else Layer
        self.embedding = nn.Embedding(TOKENS, 6)
        self.layers = nn.ModuleList(make(config.how, number) for number in range(config.num_hidden_layers))
        self.head = nn.Linear(6, TOKENS)
        self.post_init()

    def forward(
        self, input_ids: Tensor, past_key_values: Any = None, use_cache: bool = False
    ) -> CausalLMOutputWithPast:
        cache = DynamicCache() if use_cache and past_key_values is None else past_key_values
        seen = 0 if cache is None else cache.get_seq_length()
        x = self.embedding(input_ids) + torch.arange(seen, seen + input_ids.shape[1])[None, :, None].sin()
        for layer in self.layers:
            x = layer(x, cache)
        return CausalLMOutputWithPast(logits=self.head(x), past_key_values=cache)


HOW = (
    *("attribute", "keyword of a partial", "argument of a partial", "closure", "closure in a partial", "default"),
    *("default by name", "list", "mapping", "object", "module", "tensor", "buffer", "class"),
)
IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
LAST = Subnet(((1, 3),))


def network_of(how: str) -> ResidualNetwork:
    torch.manual_seed(0)
    return stimulative.unravel(Numbered(Config(how)).eval(), {"input_ids": IDS}).eval()


def goes_on(call: Any) -> tuple[Tensor, int]:
    """The last logits when the last token comes after a cache, and how many layers are in the cache."""
    cache = call(input_ids=IDS[:, :-1], use_cache=True).past_key_values
    return call(input_ids=IDS[:, -1:], past_key_values=cache, use_cache=True).logits[:, -1], len(cache.layers)


@pytest.mark.parametrize("how", HOW)
def test_a_subnet_goes_on_with_the_cache_of_a_smaller_model(how, recwarn):
    network = network_of(how)
    before = [(module, dict(vars(module)), dict(module._buffers)) for module in network.model.modules()]
    for subnet, layers in ((LAST, 2), (Subnet(((2,),)), 1), (Subnet(((3, 0, 1),)), 3), (network.full, 4)):
        whole = network({"input_ids": IDS}, subnet).logits[:, -1]
        plain = network.model.embedding(IDS) + torch.arange(5)[None, :, None].sin()
        for number in subnet.stages[0]:
            plain = network.model.layers[number](plain, None)
        assert torch.allclose(whole, network.model.head(plain)[:, -1], atol=1e-6)
        logits, count = goes_on(lambda subnet=subnet, **given: network(given, subnet))
        assert count == layers and torch.allclose(logits, whole, atol=1e-6)
        with network.only(subnet) as model:
            logits, count = goes_on(model)
        assert count == layers and torch.allclose(logits, whole, atol=1e-6)
    for module, own, buffers in before:
        assert vars(module) == own and all(module._buffers[key] is value for key, value in buffers.items())
    assert not recwarn.list


@pytest.mark.parametrize("how", HOW)
def test_what_is_taken_out_is_numbered_anew_and_the_model_is_not(how, recwarn):
    network = network_of(how)
    whole, state = network({"input_ids": IDS}, LAST).logits[:, -1], copy.deepcopy(network.model.state_dict())
    taken = stimulative.extract(network, LAST)
    assert taken.config.num_hidden_layers == 2
    logits, count = goes_on(taken)
    assert count == 2 and torch.allclose(logits, whole, atol=1e-6)
    logits, count = goes_on(network.model)
    assert count == LAYERS and torch.allclose(logits, network.model(IDS).logits[:, -1], atol=1e-6)
    assert all(torch.equal(value, state[key]) for key, value in network.model.state_dict().items())
    logits, count = goes_on(keep_only(network, LAST).model)
    assert count == 2 and torch.allclose(logits, whole, atol=1e-6)
    said = [str(warning.message) for warning in recwarn.list]
    if how == "tensor":  # what is no parameter and no buffer, from_pretrained leaves without a value
        assert len(said) == 1 and "it fails: RuntimeError: Tensor.item() cannot be called on meta tensors" in said[0]
    else:
        assert not said


def test_what_may_be_a_number_but_is_not_called_one_is_kept_and_said():
    network = network_of("untold")
    with pytest.warns(UserWarning, match=r"layers of 'layers' count themselves in who\.0, .* call it layer_idx"):
        network({"input_ids": IDS}, LAST)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network({"input_ids": IDS}, "2")  # the first layers have their numbers
        network.run({"input_ids": IDS}, [LAST, "2"])  # without caches
    with pytest.warns(UserWarning, match=r"builds another model: layers\.0\.who\.0 is 1 here and 0 there"):
        stimulative.extract(network, LAST)


class Scaled(Numbered):
    """Each layer has a scale that follows from its number."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.layers):
            layer.scales = [1 / (1 + number)]


def test_what_follows_from_a_number_is_kept_and_said():
    torch.manual_seed(0)
    network = stimulative.unravel(Scaled(Config()).eval(), {"input_ids": IDS})
    with pytest.warns(UserWarning, match=r"builds another model: layers\.0\.scales\.0 is 0\.5 here and 1\.0 there"):
        taken = stimulative.extract(network, LAST)
    assert [layer.scales for layer in taken.layers] == [[0.5], [0.25]]


def test_only_what_counts_the_layers_is_their_number():
    class Part(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.layer_idx, self.block_size, self.dilation = number + 3, 16, number + 1
            self.layer_type, self.layer_seed, self.layer_even = (
                ["full", "window"][number % 2],
                7**number,
                number % 2 == 0,
            )
            self.experts = nn.ModuleList([nn.Linear(2, 2) for _ in range(2)])
            for expert, module in enumerate(self.experts):
                module.expert_index = expert

    found = numbers_in([Part(number) for number in range(4)])
    assert [[(str(number), number.start) for number in own] for own in found.numbers] == [[("layer_idx", 3)]] * 4
    assert found.untold == ("dilation",)
    assert numbers_in([Part(0)]).numbers == ((),), "one layer counts nothing"


def test_everything_that_a_module_holds_itself_is_looked_at():
    module = nn.Module()
    module.partial = functools.partial(max, 1, key=abs)
    module.bound = types.MethodType(lambda self, scale=0.5: scale, module)
    module.deep = [[[[[1]]]]]
    module.loop = [2]
    module.loop.append(module.loop)
    module.child = nn.Linear(1, 1)
    found = {held_at(name, way): leaf for name, way, leaf in constants_of(module)}
    assert found == {"partial.0": 1, "bound.scale": 0.5, "loop.0": 2}
