"""What is extracted of a Transformers model is restored by ``from_pretrained``, or ``extract`` says that it is not."""

import re
import warnings
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

import stimulative
from stimulative.errors import UsageError
from stimulative.residual import keep_only

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "nemotron_h": (
        "AutoModelForCausalLM",
        {
            "hybrid_override_pattern": "M*M-M*",
            "hidden_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "intermediate_size": 48,
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "ssm_state_size": 8,
            "n_groups": 1,
        },
    ),
    "funnel": (
        "AutoModelForSequenceClassification",
        {"block_sizes": [2, 3, 2], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 48},
    ),
    "rwkv": ("AutoModelForCausalLM", {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 4}),
    "bamba": (
        "AutoModelForCausalLM",
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "attn_layer_indices": [1],
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_d_state": 8,
        },
    ),
    "mllama_text_model": (  # without images it passes over the layers that look at them
        "MllamaForCausalLM",
        {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 2}
        | {"num_key_value_heads": 1, "cross_attention_layers": [1, 4]},
    ),
    "squeezebert": (
        "AutoModelForSequenceClassification",
        {"hidden_size": 32, "embedding_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
        | {"intermediate_size": 48},
    ),
    "diffllama": (
        "AutoModelForCausalLM",
        {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
        | {"num_key_value_heads": 2},
    ),
}
RESTORED = [
    ("nemotron_h", "3"),
    ("nemotron_h", "[0.1.4.5]"),
    ("funnel", "1-1-1"),
    ("funnel", "2-[0.2]-1"),
    ("rwkv", "2"),
    ("bamba", "3"),
    ("diffllama", "2"),
    ("mllama_text_model", "1"),
    ("mllama_text_model", "[1.3]"),
]
NOT_RESTORED = {
    ("squeezebert", "1-1"): r"output.conv1d.bias is of shape None here and \(32,\) there",  # halves of layers
    (
        "diffllama",
        "[0.3]",
    ): r"layers.1.self_attn.lambda_init is 0.55\d+ here and 0.35\d+ there",  # it follows from the number
}


def made(name: str) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A small model, and an input with padding."""
    head, arguments = MODELS[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, **arguments)
    kind = getattr(transformers, head)
    model = (kind.from_config if head.startswith("Auto") else kind)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids = torch.randint(5, 50, (2, 12))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def extracted(name: str, subnet: str) -> tuple[PreTrainedModel, dict[str, Tensor], list[str]]:
    """A subnet of a small model, its input, and what was said."""
    model, inputs = made(name)
    network = stimulative.unravel(model, inputs)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        taken = stimulative.extract(network, subnet, "keep")
    assert isinstance(taken, PreTrainedModel)
    return taken, inputs, [str(each.message) for each in said if "builds another model" in str(each.message)]


def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize(("name", "subnet"), RESTORED)
def test_what_was_extracted_is_restored(name, subnet, tmp_path):
    taken, inputs, said = extracted(name, subnet)
    assert said == []
    taken.save_pretrained(tmp_path)
    again = type(taken).from_pretrained(tmp_path).eval()
    assert sum(map(Tensor.numel, again.parameters())) == sum(map(Tensor.numel, taken.parameters()))
    torch.testing.assert_close(logits(again, inputs), logits(taken, inputs))


@pytest.mark.parametrize(("name", "subnet"), NOT_RESTORED)
def test_what_would_not_be_restored_is_said(name, subnet, tmp_path):
    taken, inputs, said = extracted(name, subnet)
    (message,) = said
    assert re.search(NOT_RESTORED[name, subnet], message) and "keep it with torch.save" in message
    taken.save_pretrained(tmp_path)
    again = type(taken).from_pretrained(tmp_path).eval()
    assert (logits(again, inputs) - logits(taken, inputs)).abs().max() > 1e-3  # it is true


def test_what_no_config_of_its_class_describes_is_not_taken_out():
    with pytest.raises(UsageError, match=r"layers \[0, 2\] of 'model.layers' are no model of their own"):
        extracted("bamba", "[0.2]")


def test_the_numbers_of_chosen_layers_are_those_of_what_is_left():
    model, inputs = made("mllama_text_model")
    network = stimulative.unravel(model, inputs)
    assert network.stages[0].block_names == tuple(f"model.layers.{number}" for number in (0, 2, 3, 5))
    taken = stimulative.extract(network, "[1.3]", "keep")
    assert taken.config.cross_attention_layers == taken.model.cross_attention_layers == [0, 2]
    assert model.config.cross_attention_layers == model.model.cross_attention_layers == [1, 4]
    with torch.no_grad():
        for block in ("model.layers.0", "model.layers.3"):
            model.get_submodule(block).forward = lambda hidden, *others, **more: hidden
    torch.testing.assert_close(logits(taken, inputs), logits(model, inputs))


def test_layers_whose_inputs_lie_in_one_table_run_in_place_and_say_that_they_would_not_be_restored():
    """Gemma 3n and 4 embed each token for each layer; the table of a smaller model is another one."""
    small = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    small |= {"num_key_value_heads": 1, "head_dim": 16, "num_hidden_layers": 4, "hidden_size_per_layer_input": 8}
    small |= {"vocab_size_per_layer_input": 64, "num_kv_shared_layers": 0, "layer_types": ["full_attention"] * 4}
    torch.manual_seed(0)
    config = AutoConfig.for_model("gemma3n_text", **small, laurel_rank=4, activation_sparsity_pattern=[0.0] * 4)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids = {"input_ids": torch.randint(5, 50, (2, 9))}
    network = stimulative.unravel(model, ids)
    with torch.no_grad():
        first = network(ids, "2").logits
        for block in network.stages[0].block_names[2:]:
            model.get_submodule(block).forward = lambda hidden, *others, **more: hidden
        skipped = model(**ids).logits
        for block in network.stages[0].block_names[2:]:
            del model.get_submodule(block).forward
    torch.testing.assert_close(first, skipped)
    with pytest.warns(UserWarning, match="builds another model: "):
        taken = stimulative.extract(network, "2")
    torch.testing.assert_close(logits(taken, ids), first)


def test_a_model_that_makes_a_cache_unasked_is_unraveled():
    """FlauBERT does so whatever its config says; a module that is tried must not leave its keys there."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "flaubert", vocab_size=64, emb_dim=32, n_layers=3, n_heads=2, max_position_embeddings=32
    )
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    ids = {"input_ids": torch.randint(5, 50, (2, 9))}
    network = stimulative.unravel(model, ids)
    assert [stage.blocks for stage in network.stages] == [3]
    with torch.no_grad():
        assert torch.equal(network(ids).logits, model(**ids).logits)


class OwnConfig(PretrainedConfig):
    model_type = "counts-in-words-of-its-own"

    def __init__(self, depth_of_net: int = 4, scale: float = 1.0, **others: Any) -> None:
        super().__init__(**others)
        self.depth_of_net, self.scale = depth_of_net, scale


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x).tanh()


class OwnModel(PreTrainedModel):
    """A model whose config counts its blocks by a name that nobody knows."""

    config_class = OwnConfig

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.steps = nn.ModuleList(Block() for _ in range(config.depth_of_net))
        self.head = nn.Linear(8, 3)
        self.post_init()

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return self.head(x) * self.config.scale


def test_a_config_that_nobody_understands_is_tried():
    model, x = OwnModel(OwnConfig()).eval(), torch.randn(2, 8)
    network = stimulative.unravel(model, x)
    with pytest.warns(UserWarning, match=r"builds another model: steps.2.linear.bias is of shape None here"):
        taken = stimulative.extract(network, "2")
    expected = network(x, "2")
    assert torch.allclose(taken(x), expected)
    with pytest.warns(UserWarning, match=r"of what is left of OwnModel builds another model: steps"):
        left = keep_only(network, "2")
    assert torch.allclose(left(x), expected)


class Undescribed(OwnModel):
    """A model whose layers its config counts, but with a factor that is in neither the config nor the weights."""

    def __init__(self, config: OwnConfig, factor: float = 1.0) -> None:
        config.depth_of_net = config.num_hidden_layers
        super().__init__(config)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.factor


def test_outputs_are_compared_and_the_weights_are_left_alone():
    """Names, shapes and numbers of layers are as the config says; only running what is restored shows a difference."""
    config = OwnConfig(num_hidden_layers=4)
    model = Undescribed(config, factor=3.0).eval()
    x = torch.randn(2, 8)
    network = stimulative.unravel(model, x)
    with pytest.warns(UserWarning, match=r"builds another model: its outputs differ by up to"):
        taken = stimulative.extract(network, "2")
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith(("steps.2", "steps.3"))}
    assert taken.state_dict().keys() == kept.keys()
    assert all(torch.equal(value, kept[key]) for key, value in taken.state_dict().items())
    assert torch.allclose(taken(x), network(x, "2"))
