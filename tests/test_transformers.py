"""Hugging Face Transformers: stages are found, and each subnet is the model that a smaller config builds."""

import copy
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import stimulative
from stimulative import models
from stimulative.errors import UsageError
from stimulative.objectives import logits_of
from stimulative.residual import ResidualNetwork, Subnet, keep_only

WIDTH: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
IMAGES: dict[str, Any] = {**WIDTH, "image_size": 16, "patch_size": 8, "num_labels": 5}
TEXT: dict[str, Any] = {**WIDTH, "vocab_size": 31, "max_position_embeddings": 32}
TYPES = ("sliding_attention", "full_attention", "sliding_attention", "full_attention")
HYBRID: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 3, "num_key_value_heads": 1, "head_dim": 8}

Kept = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Family:
    """A model with tiny random weights.

    Args:
        make: Builds it with the given layers of each stage, of those that it has when it is whole.
        stages: The stages that have to be found, and how many layers they have.
        inputs: Which inputs it takes.
        subnets: Subnets to run.
        fixed: Whether the first layer of each stage always runs.
        moved: Attributes of layers that do not follow from the number of layers.
    """

    make: Callable[[Kept], nn.Module]
    stages: dict[str, int]
    inputs: str = "text"
    subnets: tuple[str, ...] = ("1", "[1.2]", "[0.2]", "[2]", "3")
    fixed: bool = False
    moved: tuple[str, ...] = ()
    whole: Kept = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "whole", tuple(tuple(range(length)) for length in self.stages.values()))


def simple(model: Any, config: Any, **settings: Any) -> Callable[[Kept], nn.Module]:
    """Builds a model of one stage that counts its layers in the usual field."""
    return lambda kept: model(config(num_hidden_layers=len(kept[0]), **settings))


def hybrid(kept: Kept) -> nn.Module:
    """Builds a model whose layers look at everything or at the last three tokens."""
    types = [TYPES[number] for number in kept[0]]
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(num_hidden_layers=len(types), layer_types=types, **HYBRID, **TEXT))


def gpt2(kept: Kept) -> nn.Module:
    """Builds GPT-2, whose config has names of its own."""
    ids = {"vocab_size": 31, "bos_token_id": 1, "eos_token_id": None}
    return hf.GPT2LMHeadModel(hf.GPT2Config(n_layer=len(kept[0]), n_embd=16, n_head=2, n_positions=32, **ids))


def t5(kept: Kept) -> nn.Module:
    """Builds T5; its decoder is not deeper than its encoder."""
    encoder, decoder = map(len, kept)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "vocab_size": 31, "decoder_start_token_id": 0}
    return hf.T5ForConditionalGeneration(hf.T5Config(num_layers=encoder, num_decoder_layers=decoder, **sizes))


def swin(kept: Kept) -> nn.Module:
    """Builds Swin of two stages."""
    sizes = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "num_heads": [2, 2], "window_size": 2, "num_labels": 5}
    return hf.SwinForImageClassification(hf.SwinConfig(depths=[len(stage) for stage in kept], **sizes))


GROUPED = {**TEXT, "num_key_value_heads": 1}
FAMILIES = {
    "vit": Family(simple(hf.ViTForImageClassification, hf.ViTConfig, **IMAGES), {"vit.layers": 3}, "images"),
    "deit": Family(simple(hf.DeiTForImageClassification, hf.DeiTConfig, **IMAGES), {"deit.layers": 3}, "images"),
    "dinov2": Family(
        simple(hf.Dinov2ForImageClassification, hf.Dinov2Config, **{**IMAGES, "mlp_ratio": 2}),
        {"dinov2.encoder.layer": 3},
        "images",
    ),
    "swin": Family(
        swin,
        {"swin.encoder.layers.0.blocks": 2, "swin.encoder.layers.1.blocks": 3},
        "images",
        ("1-1", "2-2", "[1]-[1.2]", "2-[0.2]"),
        moved=("shift_size",),
    ),
    "bert": Family(simple(hf.BertForSequenceClassification, hf.BertConfig, **TEXT), {"bert.encoder.layer": 3}),
    "roberta": Family(simple(hf.RobertaForMaskedLM, hf.RobertaConfig, **TEXT), {"roberta.encoder.layer": 3}),
    "gpt2": Family(gpt2, {"transformer.h": 3}),
    "llama": Family(simple(hf.LlamaForCausalLM, hf.LlamaConfig, **GROUPED), {"model.layers": 3}),
    "qwen2": Family(simple(hf.Qwen2ForCausalLM, hf.Qwen2Config, **GROUPED), {"model.layers": 3}),
    "qwen3": Family(simple(hf.Qwen3ForCausalLM, hf.Qwen3Config, **GROUPED, head_dim=8), {"model.layers": 3}),
    "qwen3-hybrid": Family(hybrid, {"model.layers": 4}, subnets=("1", "[1.3]", "[0.2]", "[1.2.3]", "[3]")),
    "mistral": Family(
        simple(hf.MistralForCausalLM, hf.MistralConfig, **GROUPED, sliding_window=3), {"model.layers": 3}
    ),
    "t5": Family(
        t5,
        {"encoder.block": 4, "decoder.block": 3},
        "both",
        ("2-1", "[0.2.3]-[0.2]", "3-[0.2]", "4-3"),
        fixed=True,
    ),
}
DECODERS = [name for name in FAMILIES if name.startswith(("gpt2", "llama", "qwen", "mistral", "t5"))]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def inputs_of(family: Family) -> dict[str, Tensor]:
    """Inputs of two samples; of texts the first one is padded on the left."""
    if family.inputs == "images":
        return {"pixel_values": torch.randn(2, 3, 16, 16, dtype=torch.float64)}
    tokens = torch.randint(3, 31, (2, 7))
    mask = torch.ones_like(tokens)
    mask[0, :2] = 0
    inputs = {"input_ids": tokens, "attention_mask": mask}
    return inputs | ({"decoder_input_ids": tokens.flip(1)[:, :5]} if family.inputs == "both" else {})


def unraveled(name: str) -> tuple[ResidualNetwork, dict[str, Tensor]]:
    """A network of a family, in evaluation mode and double precision, and inputs."""
    family = FAMILIES[name]
    model = family.make(family.whole).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases, too, are not as they start
            parameter += 0.05 * torch.randn_like(parameter)
    inputs = inputs_of(family)
    return stimulative.unravel(model, inputs), inputs


def key_in_plain(name: str, key: str, kept: Kept) -> str | None:
    """What a parameter of the whole model is called in the smaller one; None if it is not in there."""
    for stage, layers in zip(FAMILIES[name].stages, kept, strict=True):
        if key.startswith(f"{stage}."):
            number, _, rest = key.removeprefix(f"{stage}.").partition(".")
            return f"{stage}.{layers.index(int(number))}.{rest}" if int(number) in layers else None
    return key


def plain(name: str, model: nn.Module, kept: Kept) -> nn.Module:
    """The model that a config of as many layers builds, with the weights of the kept ones."""
    family = FAMILIES[name]
    small = family.make(kept).double().train(model.training)
    state = model.state_dict()
    small.load_state_dict({new: state[key] for key in state if (new := key_in_plain(name, key, kept)) is not None})
    for stage, layers in zip(family.stages, kept, strict=True):
        for position, number in enumerate(layers):
            for attribute in family.moved:
                value = getattr(model.get_submodule(f"{stage}.{number}"), attribute)
                setattr(small.get_submodule(f"{stage}.{position}"), attribute, value)
    return small


def attributes(model: nn.Module) -> dict[str, Any]:
    """Everything on a model's modules that is no tensor, and its configs."""
    found = {}
    for name, module in model.named_modules():
        own = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        found[name] = own, list(module._modules), len(module._forward_hooks), len(module._forward_pre_hooks)
        if hasattr(module, "config"):
            found[f"{name} config"] = copy.deepcopy(vars(module.config))
    return found


def cache_of(output: Any) -> tuple[str, Any]:
    """The cache that a model returns, and what it is called."""
    name = "cache" if "cache" in output else "past_key_values"
    return name, output[name]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layers_are_the_stages(name):
    network, _ = unraveled(name)
    assert {stage.name: stage.blocks for stage in network.stages} == FAMILIES[name].stages
    for stage in network.stages:
        assert stage.block_names == tuple(f"{stage.name}.{number}" for number in range(stage.blocks))
        assert stage.fixed_entry == FAMILIES[name].fixed


@pytest.mark.parametrize("name", FAMILIES)
def test_a_subnet_is_the_model_of_a_smaller_config(name):
    network, inputs = unraveled(name)
    subnets = [Subnet.parse(text) for text in FAMILIES[name].subnets]
    before, weights = attributes(network.model), copy.deepcopy(network.model.state_dict())
    with torch.no_grad():
        together = network.run(inputs, subnets)
        for subnet, shared in zip(subnets, together, strict=True):
            expected = plain(name, network.model, subnet.stages)(**inputs)
            alone = network(inputs, subnet)
            with network.only(subnet) as model:
                inside = model(**inputs)
            for output in (shared, alone, inside):
                assert type(output) is type(expected)
                torch.testing.assert_close(output.logits, expected.logits, rtol=1e-10, atol=1e-12)
            assert not torch.allclose(expected.logits, network(inputs).logits) or subnet == network.full
    assert attributes(network.model) == before
    after = network.model.state_dict()
    assert list(after) == list(weights)
    assert all(torch.equal(after[key], value) for key, value in weights.items())


@pytest.mark.parametrize("name", ["vit", "bert", "gpt2", "qwen3-hybrid", "t5"])
def test_hidden_states_are_those_of_the_layers_that_run(name):
    network, inputs = unraveled(name)
    subnet = Subnet.parse(FAMILIES[name].subnets[1])
    asked = {**inputs, "output_hidden_states": True}
    key = "decoder_hidden_states" if name == "t5" else "hidden_states"
    layers = len(FAMILIES[name].whole[-1])
    with torch.no_grad():
        expected = plain(name, network.model, subnet.stages)(**asked)[key]
        with network.only(subnet) as model:
            inside = model(**asked)[key]
        alone = network(asked, subnet)[key]
        shared = network.run(asked, [network.full, subnet])[1][key]
        whole = network.model(**asked)[key]  # the hooks are on all layers, though a smaller model was first asked
        if name == "t5":
            assert len(network.model(**asked).encoder_hidden_states) == 5
    assert len(whole) == layers + 1
    for states in (inside, alone):
        assert len(states) == len(expected) == len(subnet.stages[-1]) + 1
        for state, right in zip(states, expected, strict=True):
            torch.testing.assert_close(state, right, rtol=1e-10, atol=1e-12)
    # beside others a skipped layer has a state, too: its input
    assert len(shared) == layers + 1
    running = [0, *(number + 1 for number in subnet.stages[-1])]
    for number, right in zip(running[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(shared[number], right, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(shared[-1], expected[-1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["vit", "bert", "gpt2", "mistral", "t5"])
def test_training_gives_the_gradients_of_the_smaller_model(name):
    network, inputs = unraveled(name)
    network.train()
    subnet = Subnet.parse(FAMILIES[name].subnets[1])
    small = plain(name, network.model, subnet.stages)
    assert small.training
    for model in (lambda: small(**inputs), lambda: network(inputs, subnet)):
        torch.manual_seed(3)  # skipped layers draw no dropout, so both draw the same
        model().logits.square().mean().backward()
    expected = {key: p.grad for key, p in small.named_parameters() if p.grad is not None}
    assert expected
    for key, parameter in network.model.named_parameters():
        right = expected.get(key_in_plain(name, key, subnet.stages) or "")
        assert (parameter.grad is None) == (right is None)
        if right is not None:
            torch.testing.assert_close(parameter.grad, right, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("schedule", ["joint", "lean"])
@pytest.mark.parametrize("name", ["swin", "roberta", "gpt2", "qwen3-hybrid", "t5"])
def test_a_stimulative_step_is_the_naive_one(name, schedule):
    network, inputs = unraveled(name)
    subnet = Subnet.parse(FAMILIES[name].subnets[1])
    logits = network.model(**inputs).logits
    targets = torch.randint(0, logits.shape[-1], logits.shape[:-1])
    if targets.dim() == 2:
        targets[0, 0] = -100
    counted = targets.flatten() != -100

    main = network.model(**inputs).logits.flatten(0, -2)
    loss = nn.functional.cross_entropy(main, targets.flatten(), ignore_index=-100)
    small = plain(name, network.model, subnet.stages)
    student, teacher = small(**inputs).logits.flatten(0, -2).log_softmax(-1), main.detach().log_softmax(-1)
    divergence = nn.functional.kl_div(student[counted], teacher[counted], log_target=True, reduction="batchmean")
    (loss + 0.7 * divergence).backward()
    added = {key: p.grad for key, p in small.named_parameters() if p.grad is not None}
    expected = {}
    for key, parameter in network.model.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected[key] = grad + added.get(key_in_plain(name, key, subnet.stages) or "", 0)
    network.zero_grad()

    method = stimulative.StimulativeTraining(network, balance=0.7, balance_ramp=0, schedule=schedule)
    if schedule == "joint":
        terms = method(inputs, targets, [subnet])
        terms.loss.backward()
    else:
        terms = method.backward(inputs, targets, [subnet])
    torch.testing.assert_close(terms.loss.detach(), (loss + 0.7 * divergence).detach())
    for key, parameter in network.model.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        # T5's norm computes in single precision
        torch.testing.assert_close(grad, expected[key], rtol=1e-8, atol=1e-7 if name == "t5" else 1e-12)


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no-cache"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_subnet_generates_what_the_smaller_model_generates(name, use_cache):
    network, inputs = unraveled(name)
    inputs.pop("decoder_input_ids", None)
    asked = {"max_new_tokens": 6, "do_sample": False, "use_cache": use_cache, "pad_token_id": 0, "eos_token_id": None}
    asked |= {"output_logits": True, "return_dict_in_generate": True}
    different = 0
    main = network.model.generate(**inputs, **asked)
    for text in FAMILIES[name].subnets:
        subnet = Subnet.parse(text)
        expected = plain(name, network.model, subnet.stages).generate(**inputs, **asked)
        with network.only(subnet) as model:
            found = model.generate(**inputs, **asked)
        assert torch.equal(found.sequences, expected.sequences)
        for one, other in zip(found.logits, expected.logits, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
        different += not torch.equal(found.sequences, main.sequences)
    assert different  # the subnets are not all like the main net, so that something was compared
    assert torch.equal(network.model.generate(**inputs, **asked).sequences, main.sequences)


@pytest.mark.parametrize("name", ["gpt2", "qwen3-hybrid"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_subnet_goes_on_with_its_own_cache(name, mode):
    network, inputs = unraveled(name)
    subnet = Subnet.parse(FAMILIES[name].subnets[1])
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    with mode():
        whole = network(inputs, subnet).logits
        output = network({"input_ids": tokens[:, :4], "attention_mask": mask[:, :4], "use_cache": True}, subnet)
        for end in range(5, 8):
            key, cache = cache_of(output)
            assert cache.get_seq_length() == end - 1
            step = {"input_ids": tokens[:, end - 1 : end], "attention_mask": mask[:, :end], key: cache}
            output = network({**step, "use_cache": True}, subnet)
        assert cache_of(output)[1] is cache
        positions = network({**inputs, "use_cache": False}, subnet).logits
    torch.testing.assert_close(output.logits[:, -1], whole[:, -1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(positions, whole)


def test_layers_in_another_order_are_a_model_of_that_order():
    network, inputs = unraveled("qwen3-hybrid")
    for text in ("[2.1.0]", "[3.0]", "[1.0.3.2]"):
        subnet = Subnet.parse(text)
        expected = plain("qwen3-hybrid", network.model, subnet.stages)
        with torch.no_grad(), network.only(subnet) as model:
            assert torch.equal(model(**inputs).logits, expected(**inputs).logits)
            generated = model.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=0)
        assert torch.equal(generated, expected.generate(**inputs, max_new_tokens=5, do_sample=False, pad_token_id=0))
        assert torch.equal(network(inputs, subnet).logits, expected(**inputs).logits)
    same_types = [Subnet.parse("[2.1.0]"), network.full]
    assert torch.equal(
        network.run(inputs, same_types)[0].logits, plain("qwen3-hybrid", network.model, ((2, 1, 0),))(**inputs).logits
    )
    message = r"layer 3 of 'model.layers' cannot run in the place of layer 0 .*layer_types .*'full_attention'.*alone"
    with pytest.raises(UsageError, match=message):
        network.run(inputs, ["[3.0]", network.full])


def test_layers_of_several_classes_are_numbered_and_typed():
    sizes = {"mamba_d_state": 4, "mamba_dt_rank": 4, "num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1}
    config = hf.JambaConfig(**GROUPED, num_hidden_layers=4, use_mamba_kernels=False, **sizes)
    model = hf.JambaForCausalLM(config).eval()
    asked = {"input_ids": torch.randint(3, 31, (2, 6)), "max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    network = stimulative.unravel(model, asked["input_ids"])
    with network.only("[0.3]"):  # a state-space layer and one of attention, as in a model of two layers
        assert [layer.layer_idx for layer in (model.model.layers[0].mamba, model.model.layers[1].self_attn)] == [0, 1]
        cached, uncached = model.generate(**asked), model.generate(**asked, use_cache=False)
    assert torch.equal(cached, uncached)
    message = r"layers \[1, 2\] of 'model.layers' are no model of their own: JambaConfig computes layer_types from"
    with pytest.raises(UsageError, match=message), network.only("[1.2]"):
        pass
    assert config.num_hidden_layers == 4
    assert model.model.layers[3].self_attn.layer_idx == 3


def test_several_subnets_make_no_cache():
    network, inputs = unraveled("llama")
    assert network.model.config.use_cache
    for output in network.run(inputs, ["1", "3"]):
        assert "cache" not in output and "past_key_values" not in output
    assert network.model.config.use_cache
    _, cache = cache_of(network(inputs, "2"))
    assert len(cache) == 2 and cache.get_seq_length() == 7


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda cache: {"use_cache": True}, "^use_cache=True belongs to one subnet, and 2 run on this batch"),
        (lambda cache: {"past_key_values": cache}, "^the cache past_key_values= belongs to one subnet, and 2 run"),
        (lambda cache: {"output_attentions": True}, "^output_attentions=True belongs to one subnet, and 2 run"),
    ],
)
def test_a_cache_for_several_subnets_is_refused(asked, message):
    network, inputs = unraveled("gpt2")
    cache = hf.DynamicCache(config=network.model.config)
    with pytest.raises(UsageError, match=message):
        network.run({**inputs, **asked(cache)}, ["1", "2"])
    assert cache.get_seq_length() == 0


def test_an_example_with_a_cache_is_refused():
    network, inputs = unraveled("gpt2")
    with pytest.raises(UsageError, match=r"^the example input has use_cache=True, and unravel calls layers again"):
        stimulative.unravel(network.model, {**inputs, "use_cache": True})


@pytest.mark.parametrize("run", [lambda n, x: n(x, "[1.2]"), lambda n, x: n.run(x, ["[1.2]", "2"])])
def test_nothing_is_left_behind_after_an_error(run):
    network, inputs = unraveled("qwen3")
    before = attributes(network.model)
    with pytest.raises(IndexError):
        run(network, {**inputs, "input_ids": inputs["input_ids"] + 40})
    with pytest.raises(RuntimeError, match="of mine"), network.only("[1.2]") as model:
        assert len(model.get_submodule("model.layers")) == model.config.num_hidden_layers == 2
        raise RuntimeError("of mine")
    assert attributes(network.model) == before


def test_within_only_the_model_is_taken():
    network, inputs = unraveled("gpt2")
    with network.only("[1.2]"):
        with pytest.raises(UsageError, match="already running a subnet in this thread"):
            network(inputs, "1")
        with pytest.raises(UsageError, match=r"only the layers of a subnet at the moment.*before only\(\.\.\.\)$"):
            network.after_blocks(lambda place, output, skipped: output)
    seen = []

    def note(place: Any, output: Any, skipped: Callable[[], Any]) -> Any:
        seen.append(place.index)
        return output

    with network.after_blocks(note), network.only("[1.2]") as model:
        model(**inputs)
    assert seen == [1, 2]
    network(inputs, "2")


def test_other_threads_wait_for_the_whole_model():
    network, inputs = unraveled("gpt2")
    expected = network(inputs, "[0.2]").logits
    found = []
    with network.only("[1]") as model:
        thread = threading.Thread(target=lambda: found.append(network(inputs, "[0.2]").logits))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and len(model.get_submodule("transformer.h")) == 1
    thread.join()
    assert torch.equal(found[0], expected)


@pytest.mark.filterwarnings("error:the config of what is left")
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_kept_is_a_plain_model(name, tmp_path):
    network, inputs = unraveled(name)
    subnet = Subnet.parse(FAMILIES[name].subnets[1])
    expected = plain(name, network.model, subnet.stages)
    with torch.no_grad():
        first = plain(name, network.model, tuple(stage[:1] for stage in subnet.stages))(**inputs).logits
    left = keep_only(network, subnet)
    assert left.space.lengths == subnet.depths
    assert {key: value.shape for key, value in left.model.state_dict().items()} == {
        key: value.shape for key, value in expected.state_dict().items()
    }
    assert [list(stage.block_names) for stage in left.stages] == [
        [f"{stage}.{number}" for number in range(depth)]
        for stage, depth in zip(FAMILIES[name].stages, subnet.depths, strict=True)
    ]
    with torch.no_grad():
        torch.testing.assert_close(left.model(**inputs).logits, expected(**inputs).logits)
        torch.testing.assert_close(left(inputs).logits, expected(**inputs).logits)
        ones = [1] * len(subnet.stages)
        for output in (left(inputs, ones), left.run(inputs, [left.full, ones])[1]):
            torch.testing.assert_close(output.logits, first, rtol=1e-10, atol=1e-12)
    for model in (left.model, expected):
        model(**inputs).logits.square().mean().backward()
    gradients = dict(expected.named_parameters())
    for key, parameter in left.model.named_parameters():
        right = gradients[key].grad
        assert (parameter.grad is None) == (right is None)
        assert right is None or torch.allclose(parameter.grad, right, rtol=1e-8, atol=1e-12)
    again = stimulative.unravel(left.model, inputs)  # as a stage a single layer is not found
    assert all(stage in again.stages for stage in left.stages if stage.blocks > 1)
    left.model.save_pretrained(tmp_path)
    loaded = type(left.model).from_pretrained(tmp_path).double().eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, expected(**inputs).logits)
    if name in DECODERS:
        inputs.pop("decoder_input_ids", None)
        asked = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        for model in (left.model, loaded):
            assert torch.equal(model.generate(**inputs, **asked), expected.generate(**inputs, **asked))


def test_what_no_config_describes_is_kept_with_a_warning():
    network, inputs = unraveled("swin")
    expected = plain("swin", network.model, ((1,), (1, 2)))(**inputs).logits
    with pytest.warns(UserWarning, match=r"SwinForImageClassification builds another model: .*shift_size is"):
        left = keep_only(network, "[1]-[1.2]")
    assert left.model.config.depths == [1, 2]
    torch.testing.assert_close(left.model(**inputs).logits, expected)


def test_what_only_shows_is_saved_as_a_plain_model(tmp_path):
    network, inputs = unraveled("qwen3-hybrid")
    expected = plain("qwen3-hybrid", network.model, ((1, 3),))(**inputs).logits
    with network.only("[1.3]") as model:
        model.save_pretrained(tmp_path)
    loaded = hf.AutoModelForCausalLM.from_pretrained(tmp_path).double().eval()
    assert loaded.config.layer_types == ["full_attention"] * 2
    torch.testing.assert_close(loaded(**inputs).logits, expected)


class Around(nn.Module):
    """A model of one's own, with T5 inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Any) -> Tensor:
        return self.inner(**inputs).logits


def test_a_model_of_ones_own_may_hold_one_of_transformers(recwarn):
    network, inputs = unraveled("t5")
    for text in ("2-[0.2]", "3-1"):
        kept = Subnet.parse(text).stages
        expected = plain("t5", network.model, kept)(**inputs).logits
        outer = stimulative.unravel(Around(copy.deepcopy(network.model)), inputs)
        assert [stage.name for stage in outer.stages] == ["inner.encoder.block", "inner.decoder.block"]
        with outer.only(text) as model:
            config = model.get_submodule("inner").config
            assert (config.num_layers, config.num_decoder_layers) == (len(kept[0]), len(kept[1]))
            torch.testing.assert_close(model(**inputs), expected)
        torch.testing.assert_close(keep_only(outer, text).model(**inputs), expected)
    assert not [warning for warning in recwarn if "keep_only" in str(warning.message)]


class TestBuild:
    """Models by their model types."""

    @pytest.mark.parametrize(
        ("name", "fields"),
        [
            ("gpt2", {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 32}),
            ("llama", {**WIDTH, "num_hidden_layers": 2}),
            ("qwen3", {**WIDTH, "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 8}),
            ("bert", {**WIDTH, "num_hidden_layers": 2}),
        ],
    )
    def test_a_model_for_text_predicts_the_next_token(self, name, fields):
        model = models.build(f"transformers/{name}", classes=40, task="text", arguments=fields).eval()
        tokens = torch.randint(0, 40, (2, 6))
        output = model(tokens)
        assert logits_of(output).shape == (2, 6, 40) and list(output) == ["logits"]  # no cache
        changed = tokens.clone()
        changed[:, -1] = (changed[:, -1] + 1) % 40
        torch.testing.assert_close(model(changed).logits[:, :-1], output.logits[:, :-1])  # no look at what comes
        generated = model.generate(
            tokens, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, pad_token_id=0
        )
        assert generated.sequences.shape == (2, 10)  # no token ends a text
        assert cache_of(generated)[1].get_seq_length() == 9
        network = stimulative.unravel(model, tokens)
        assert network.space.lengths == (2,)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_a_model_for_images_classifies(self, channels):
        fields = {**WIDTH, "num_hidden_layers": 2, "image_size": 16, "patch_size": 8}
        model = models.build("transformers/vit", classes=7, channels=channels, arguments=fields)
        assert isinstance(model, hf.ViTForImageClassification)
        assert model(torch.randn(2, channels, 16, 16)).logits.shape == (2, 7)

    def test_special_tokens_and_caches_can_be_asked_for(self):
        fields = {"n_layer": 1, "n_embd": 16, "n_head": 2, "eos_token_id": 5, "use_cache": True}
        config = models.build("transformers/gpt2", classes=9, task="text", arguments=fields).config
        assert config.eos_token_id == 5 and config.bos_token_id is None and config.use_cache

    @pytest.mark.parametrize(
        ("name", "task", "arguments", "message"),
        [
            ("gpt", "text", {}, r"no model type 'gpt'; .*transformers/gpt2.*; did you mean 'transformers/gptj'\?$"),
            ("vitt", "images", {}, r"no model type 'vitt'; .*; did you mean 'transformers/vit'\?$"),
            (
                "t5",
                "text",
                {},
                r"no causal language model of model type 't5' .*T5ForConditionalGeneration.*of your",
            ),
            (
                "bert",
                "images",
                {},
                r"no image classifier of model type 'bert' .*BertForSequenceClassification.*such",
            ),
            ("gemma3", "text", {}, r"made of several models.*did you mean 'transformers/gemma3_text'\?$"),
            ("gpt2", "text", {"n_layers": 2}, r"takes no argument 'n_layers'; known: .*; did you mean 'n_layer'\?$"),
            ("gpt2", "text", {"n_layer": "x"}, r"refuses its arguments \(n_layer='x'\): .*expected int, got str"),
            ("gpt2", "text", {"vocab_size": 3}, r"'vocab_size' cannot be given .*it follows from the data"),
            ("vit", "images", {"num_labels": 3}, r"'num_labels' cannot be given .*it follows from the data"),
            ("clip", "images", {}, r"takes images of 3 channels only; got 1"),
        ],
    )
    def test_what_cannot_be_built_is_explained(self, name, task, arguments, message):
        with pytest.raises(UsageError, match=message):
            models.build(f"transformers/{name}", classes=10, channels=1, task=task, arguments=arguments)

    @pytest.mark.parametrize("name", ["cifar/resnet20", "timm/resnet18", "torchvision/resnet18"])
    def test_models_for_images_are_refused_for_text(self, name):
        with pytest.raises(UsageError, match=f"'{name}' classifies images, and the data are text; take transformers/"):
            models.build(name, classes=10, task="text")

    def test_the_prefix_is_asked_for(self):
        with pytest.raises(UsageError, match=r"unknown model 'gpt2'; for text.*did you mean 'transformers/gpt2'\?$"):
            models.build("gpt2", classes=10, task="text")

    def test_a_missing_package_is_named(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "transformers.models.auto", None)
        with pytest.raises(UsageError, match=r"needs the package transformers.*pip install 'stimulative\[hf\]'"):
            models.build("transformers/vit", classes=10)
