"""Models by name: what is built, and what is said when it cannot be."""

import math
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from stimulative import models
from stimulative.errors import UsageError
from stimulative.models.cifar_resnet import CifarBlock, OptionAShortcut

HE_DEPTHS = {20: 3, 32: 5, 44: 7, 56: 9, 110: 18}


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def map_sizes(model: nn.Module, module_names: list[str], image: torch.Tensor) -> list[int]:
    """Returns the side of the feature map that each named module puts out."""
    sides: dict[str, int] = {}
    for name in module_names:

        def note(_module: nn.Module, _args: object, output: torch.Tensor, name: str = name) -> None:
            sides[name] = output.shape[-1]

        model.get_submodule(name).register_forward_hook(note)
    model.eval()
    with torch.no_grad():
        model(image)
    return [sides[name] for name in module_names]


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Makes a module with factories importable from the current directory only; returns its name."""
    (tmp_path / "own_nets_for_test.py").write_text(
        textwrap.dedent(
            """
            from torch import nn

            ANSWER = 42

            def small(num_classes, in_chans, width=4):
                head = nn.Linear(width * 36, num_classes)
                return nn.Sequential(nn.Conv2d(in_chans, width, 3), nn.Flatten(), head)

            def language(vocab_size, width=4):
                return nn.Sequential(nn.Embedding(vocab_size, width), nn.Linear(width, vocab_size))

            def anything(**options):
                assert options == {"num_classes": 5, "in_chans": 1, "extra": "yes"}, options
                return nn.Identity()

            def fixed():
                return nn.Linear(2, 2)

            def with_helper(num_classes):
                from helper_for_own_nets import make
                return make(num_classes)

            class Net(nn.Module):
                def __init__(self, num_classes):
                    super().__init__()
                    self.num_classes = num_classes

            def dictionary(num_classes):
                return {"classes": num_classes}

            def picky(num_classes, width):
                if width % 2:
                    raise ValueError("the width must be even")
                return nn.Linear(width, num_classes)

            def broken(num_classes):
                return undefined_name
            """
        )
    )
    (tmp_path / "helper_for_own_nets.py").write_text(
        "from torch import nn\n\ndef make(classes):\n    return nn.Linear(1, classes)\n"
    )
    (tmp_path / "needs_absent_package.py").write_text("import absent_package_for_test\n")
    (tmp_path / "has_syntax_error.py").write_text("def net(:\n")
    monkeypatch.chdir(tmp_path)
    yield "own_nets_for_test"
    for name in ("own_nets_for_test", "helper_for_own_nets", "needs_absent_package", "has_syntax_error"):
        sys.modules.pop(name, None)


class TestCifarResNet:
    # Counts of the layers the paper lists, for ten classes; its Table 6 rounds them.
    @pytest.mark.parametrize(
        ("depth", "parameters", "millions"),
        [(20, 269722, 0.27), (32, 464154, 0.46), (44, 658586, 0.66), (56, 853018, 0.85), (110, 1727962, 1.7)],
    )
    def test_has_the_parameters_of_the_paper(self, depth: int, parameters: int, millions: float) -> None:
        model = models.build(f"cifar/resnet{depth}", classes=10)
        assert parameter_count(model) == parameters
        assert math.isclose(parameters / 1e6, millions, abs_tol=0.05 if depth == 110 else 0.005)

    @pytest.mark.parametrize("depth", HE_DEPTHS)
    def test_has_three_stages_of_n_blocks_and_6n_plus_2_layers(self, depth: int) -> None:
        model = models.build(f"cifar/resnet{depth}", classes=10)
        for name in ("layer1", "layer2", "layer3"):
            stage = model.get_submodule(name)
            assert isinstance(stage, nn.Sequential)
            assert [type(block) for block in stage] == [CifarBlock] * HE_DEPTHS[depth]
        assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == depth

    @pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 8), (3, 33)])
    def test_gives_logits_for_small_images(self, channels: int, side: int) -> None:
        model = models.build("cifar/resnet20", classes=7, channels=channels)
        assert model(torch.randn(2, channels, side, side)).shape == (2, 7)

    def test_halves_the_map_at_the_second_and_third_stage(self) -> None:
        model = models.build("cifar/resnet20", classes=10)
        assert map_sizes(model, ["conv1", "layer1", "layer2", "layer3"], torch.randn(1, 3, 32, 32)) == [
            32,
            32,
            16,
            8,
        ]

    def test_width_is_the_channels_of_the_first_stage(self) -> None:
        model = models.build("cifar/resnet20", classes=10, arguments={"width": 8})
        fc = model.get_submodule("fc")
        assert isinstance(fc, nn.Linear) and fc.in_features == 32
        assert parameter_count(model) < 269722 / 3

    def test_shortcut_subsamples_and_appends_zero_channels(self) -> None:
        x = torch.randn(2, 3, 5, 4)
        expected = torch.zeros(2, 8, 3, 2)
        for row in range(3):
            for column in range(2):
                expected[:, :3, row, column] = x[:, :, 2 * row, 2 * column]
        shortcut = OptionAShortcut(added_channels=5, stride=2)
        assert torch.equal(shortcut(x), expected)
        assert parameter_count(shortcut) == 0

    def test_entry_block_is_relu_of_shortcut_plus_residual(self) -> None:
        block = CifarBlock(4, 8, stride=2).eval()
        x = torch.randn(2, 4, 8, 8)
        residual = F.conv2d(x, block.conv1.weight, stride=2, padding=1) / math.sqrt(1 + 1e-5)
        residual = F.conv2d(residual.relu(), block.conv2.weight, padding=1) / math.sqrt(1 + 1e-5)
        shortcut = torch.cat([x[:, :, ::2, ::2], torch.zeros(2, 4, 4, 4)], dim=1)
        assert torch.allclose(block(x), (shortcut + residual).relu(), atol=1e-6)

    def test_blocks_leave_their_input_untouched(self) -> None:
        for block in (CifarBlock(4, 4), CifarBlock(4, 8, stride=2)):
            x = torch.randn(2, 4, 8, 8)
            before = x.clone()
            block(x)
            assert torch.equal(x, before)

    def test_starts_as_the_papers_say(self) -> None:
        torch.manual_seed(0)
        model = models.build("cifar/resnet20", classes=100)
        conv = model.get_submodule("layer3.1.conv1")
        assert isinstance(conv, nn.Conv2d)
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
        fc = model.get_submodule("fc")
        assert isinstance(fc, nn.Linear)
        assert fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not fc.bias.any()
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(norms) == 19
        assert all(bool((norm.weight == 1).all()) and not norm.bias.any() for norm in norms)

    def test_same_seed_same_parameters(self) -> None:
        def built() -> dict[str, torch.Tensor]:
            torch.manual_seed(3)
            return models.build("cifar/resnet20", classes=10).state_dict()

        first, second = built(), built()
        assert all(torch.equal(first[key], second[key]) for key in first)


class TestCifarStem:
    # timm's own counts for ten classes, less what the smaller first convolution saves.
    @pytest.mark.parametrize(
        ("name", "parameters"),
        [("resnet18", 11173962), ("resnet34", 21282122), ("resnet50", 23520842), ("resnet101", 42512970)],
    )
    def test_resnet_has_a_small_stem_and_is_otherwise_timms(self, name: str, parameters: int) -> None:
        import timm

        model = models.build(f"cifar/{name}", classes=10)
        original = timm.create_model(name, num_classes=10)
        assert parameter_count(model) == parameters
        assert parameter_count(original) - parameter_count(model) == 64 * 3 * (7 * 7 - 3 * 3)
        assert type(model) is type(original)
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        other_shapes = {key: value.shape for key, value in original.state_dict().items()}
        assert shapes.pop("conv1.weight") == (64, 3, 3, 3)
        assert other_shapes.pop("conv1.weight") == (64, 3, 7, 7)
        assert shapes == other_shapes

    def test_resnet_keeps_the_resolution_up_to_the_first_stage(self) -> None:
        model = models.build("cifar/resnet18", classes=10)
        sides = map_sizes(model, ["conv1", "layer1", "layer2", "layer3", "layer4"], torch.randn(1, 3, 32, 32))
        assert sides == [32, 32, 16, 8, 4]

    def test_mobilenetv3_halves_the_resolution_once_less_than_timms(self) -> None:
        import timm

        model = models.build("cifar/mobilenetv3_large", classes=10)
        original = timm.create_model("mobilenetv3_large_100", num_classes=10)
        assert type(model) is type(original)
        assert parameter_count(model) == parameter_count(original)
        stages = ["conv_stem", *(f"blocks.{index}" for index in range(7))]
        image = torch.randn(1, 3, 32, 32)
        assert map_sizes(model, stages, image) == [32, 32, 16, 8, 4, 4, 2, 2]
        assert map_sizes(original, stages, image) == [16, 16, 8, 4, 2, 2, 1, 1]

    @pytest.mark.parametrize("depth", [121, 169, 201])
    def test_densenet_is_that_of_the_libraries_but_for_the_stem(self, depth: int) -> None:
        model = models.build(f"cifar/densenet{depth}", classes=1000)
        original = getattr(torchvision.models, f"densenet{depth}")()
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        other_shapes = {key: value.shape for key, value in original.state_dict().items()}
        assert shapes.pop("features.conv0.weight") == (64, 3, 3, 3)
        assert other_shapes.pop("features.conv0.weight") == (64, 3, 7, 7)
        assert shapes == other_shapes
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert len(layers) == depth, "the paper counts convolutions and the classifier"

    def test_densenet264_has_the_blocks_of_the_paper(self) -> None:
        with torch.device("meta"):
            model = models.build("cifar/densenet264", classes=10, arguments={"growth_rate": 4})
        blocks = [model.get_submodule(f"features.denseblock{block}") for block in (1, 2, 3, 4)]
        assert [len(list(block.children())) for block in blocks] == [6, 12, 64, 48]
        # two in each of the 130 layers, the stem, three transitions and the classifier: its name is one short
        assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == 265

    def test_densenet_keeps_the_resolution_up_to_the_first_transition(self) -> None:
        arguments = {"growth_rate": 4, "block_config": [1, 2, 3, 1]}
        model = models.build("cifar/densenet121", classes=10, arguments=arguments)
        names = ["features.conv0", *(f"features.denseblock{block}" for block in (1, 2, 3, 4))]
        assert map_sizes(model, names, torch.randn(1, 3, 32, 32)) == [32, 32, 16, 8, 4]

    @pytest.mark.parametrize(("config", "side"), [([2, 3, 4], 8), ([3, 2], 4), ([2], 1)])
    def test_densenet_of_any_number_of_blocks(self, config: list[int], side: int) -> None:
        arguments = {"growth_rate": 4, "block_config": config, "proj_drop_rate": 0.1}
        model = models.build("cifar/densenet169", classes=10, channels=1, arguments=arguments).eval()
        assert model(torch.randn(2, 1, side, side)).shape == (2, 10)
        blocks = [len(m) for name, m in model.named_modules() if re.fullmatch(r"features\.denseblock\d", name)]  # pyright: ignore[reportArgumentType]
        assert blocks == config
        assert model.get_submodule("features.denseblock1.denselayer1").drop_rate == 0.1

    def test_densenet_starts_as_timms(self) -> None:
        torch.manual_seed(0)
        model = models.build("cifar/densenet121", classes=10)
        stem, fc = model.get_submodule("features.conv0"), model.get_submodule("classifier")
        assert isinstance(stem, nn.Conv2d) and isinstance(fc, nn.Linear)
        assert stem.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 3)), rel=0.1)
        assert not fc.bias.any()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"block_config": [2, 0]}, r"argument 'block_config' of 'cifar/densenet121' must be .* got \[2, 0\]"),
            ({"block_config": 3}, r"'block_config' .* such as \[6, 12, 24, 16\]; got 3"),
            ({"block_config": []}, r"'block_config' .* got \[\]"),
            ({"block_config": ["2"]}, r"'block_config' .* got \['2'\]"),
            ({"growth_rate": 0}, r"argument 'growth_rate' of 'cifar/densenet121' must be a whole number from 1; got 0"),
            ({"growth_rate": 1.5}, r"'growth_rate' .* got 1\.5"),
            (
                {"stem_type": "deep"},
                r"'stem_type' cannot be given to model 'cifar/densenet121': the cifar/ stem is fixed",
            ),
            ({"growth": 8}, r"model 'cifar/densenet121' takes no argument 'growth'"),
        ],
    )
    def test_densenet_refuses(self, arguments: dict[str, object], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            models.build("cifar/densenet121", classes=10, arguments=arguments)

    @pytest.mark.parametrize("name", ["cifar/resnet18", "cifar/mobilenetv3_large", "cifar/densenet121"])
    def test_takes_other_channels(self, name: str) -> None:
        model = models.build(name, classes=4, channels=1)
        assert model(torch.randn(2, 1, 32, 32)).shape == (2, 4)

    def test_resnet_starts_as_in_the_published_code_unless_asked(self) -> None:
        torch.manual_seed(0)
        model = models.build("cifar/resnet50", classes=100)
        assert bool((model.get_submodule("layer1.1.bn3").weight == 1).all())  # pyright: ignore[reportAttributeAccessIssue]
        stem, fc = model.get_submodule("conv1"), model.get_submodule("fc")
        assert isinstance(stem, nn.Conv2d) and isinstance(fc, nn.Linear)
        assert stem.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.1)
        assert fc.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert not fc.bias.any()
        model = models.build("cifar/resnet50", classes=100, arguments={"zero_init_last": True})
        assert not model.state_dict()["layer1.1.bn3.weight"].any()

    def test_arguments_reach_timm(self) -> None:
        model = models.build("cifar/resnet18", classes=10, arguments={"drop_path_rate": 0.2})
        drop = model.get_submodule("layer4.1.drop_path")
        assert drop.drop_prob == pytest.approx(0.2)


class TestLibraries:
    @pytest.mark.parametrize(("name", "channels"), [("timm/resnet18", 1), ("timm/resnet18.a1_in1k", 3)])
    def test_timm(self, name: str, channels: int) -> None:
        model = models.build(name, classes=6, channels=channels)
        assert type(model).__module__ == "timm.models.resnet"
        assert model(torch.randn(2, channels, 64, 64)).shape == (2, 6)

    def test_torchvision(self) -> None:
        model = models.build("torchvision/mobilenet_v3_small", classes=6, arguments={"dropout": 0.4})
        assert isinstance(model, torchvision.models.MobileNetV3)
        assert model.classifier[2].p == 0.4
        assert model.eval()(torch.randn(2, 3, 64, 64)).shape == (2, 6)

    def test_torchvision_takes_three_channels(self) -> None:
        with pytest.raises(UsageError, match=r"'torchvision/resnet18' takes images of 3 channels only; got 1; take a"):
            models.build("torchvision/resnet18", classes=10, channels=1)

    def test_torchvision_factory_that_takes_channels_gets_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def net_of_any_channels(*, weights: None = None, num_classes: int = 1000, in_channels: int = 3) -> nn.Module:
            return nn.Conv2d(in_channels, num_classes, 1)

        monkeypatch.setitem(torchvision.models._api.BUILTIN_MODELS, "net_of_any_channels", net_of_any_channels)
        model = models.build("torchvision/net_of_any_channels", classes=4, channels=2)
        assert model.state_dict()["weight"].shape == (4, 2, 1, 1)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("timm/resnet51", r"timm has no model 'resnet51'; .*did you mean 'timm/resnet5\d\w*'\?"),
            (
                "timm/resnet18.nope",
                r"unknown model 'timm/resnet18\.nope': .*Leave the tag off: 'timm/resnet18'",
            ),
            ("timm/hf-hub:someone/net", r"timm has no model 'hf-hub:someone/net'"),
            (
                "torchvision/resnet51",
                r"no image classifier 'resnet51'; .*did you mean 'torchvision/resnet5\d\w*'\?",
            ),
            ("torchvision/fcn_resnet50", r"no image classifier 'fcn_resnet50'"),
        ],
    )
    def test_unknown_names(self, name: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            models.build(name, classes=10)

    @pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18", "cifar/resnet18"])
    def test_unknown_argument_is_named(self, name: str) -> None:
        with pytest.raises(UsageError, match=rf"model '{name}' takes no argument 'colour'"):
            models.build(name, classes=10, arguments={"colour": "red"})

    @pytest.mark.parametrize(
        ("name", "argument"),
        [
            ("timm/resnet18", "pretrained"),
            ("torchvision/resnet18", "weights"),
            ("cifar/resnet18", "pretrained"),
        ],
    )
    def test_trained_weights_are_not_loaded(self, name: str, argument: str) -> None:
        with pytest.raises(UsageError, match=rf"'{argument}' cannot be given to model .* without trained weights"):
            models.build(name, classes=10, arguments={argument: True})

    def test_refused_value_names_the_arguments(self) -> None:
        with pytest.raises(
            UsageError, match=r"'timm/resnet18' refuses its arguments \(output_stride=7\): AssertionError"
        ):
            models.build("timm/resnet18", classes=10, arguments={"output_stride": 7})


class TestOwnFactory:
    def test_is_imported_from_the_current_directory_and_called_with_the_sizes(self, own_module: str) -> None:
        path_before = list(sys.path)
        model = models.build(f"{own_module}:small", classes=5, channels=2, arguments={"width": 6})
        assert model(torch.randn(3, 2, 8, 8)).shape == (3, 5)
        assert model.state_dict()["0.weight"].shape[0] == 6
        assert sys.path == path_before

    def test_keyword_catch_all_gets_everything(self, own_module: str) -> None:
        model = models.build(f"{own_module}:anything", classes=5, channels=1, arguments={"extra": "yes"})
        assert isinstance(model, nn.Identity)

    def test_text_gives_the_size_of_the_vocabulary_and_no_channels(self, own_module: str) -> None:
        model = models.build(f"{own_module}:language", classes=9, task="text", arguments={"width": 6})
        assert model(torch.zeros(2, 3, dtype=torch.long)).shape == (2, 3, 9)
        assert models.build(f"{own_module}:Net", classes=9, task="text").num_classes == 9
        with pytest.raises(UsageError, match="missing 1 required positional argument: 'in_chans'"):
            models.build(f"{own_module}:small", classes=9, task="text")

    def test_factory_without_parameters_is_called_without(self, own_module: str) -> None:
        assert isinstance(models.build(f"{own_module}:fixed", classes=5), nn.Linear)

    def test_class_is_a_factory(self, own_module: str) -> None:
        assert models.build(f"{own_module}:Net", classes=5).num_classes == 5

    def test_factory_can_import_its_neighbours(self, own_module: str) -> None:
        model = models.build(f"{own_module}:with_helper", classes=5)
        assert model.state_dict()["weight"].shape == (5, 1)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("own_nets_for_test:smal", r"'own_nets_for_test' has no 'smal' .*did you mean 'small'\?"),
            ("own_nets_for_test:ANSWER", r"is no factory: it must be a function or class .* got int 42"),
            ("own_nets_for_test:dictionary", r"must return a torch\.nn\.Module; got dict \{'classes': 5\}"),
            (
                "own_nets_for_test.py:small",
                r"cannot import .*write it without '\.py': 'own_nets_for_test:small'",
            ),
            (
                "absent_module_for_test:net",
                r"No module named 'absent_module_for_test'; looked in the installed",
            ),
            (
                "needs_absent_package:net",
                r"cannot import 'needs_absent_package' .*'absent_package_for_test'$",
            ),
            ("has_syntax_error:net", r"cannot import 'has_syntax_error' .*SyntaxError.*line 1"),
            (
                "own_nets_for_test:",
                r"unknown model 'own_nets_for_test:'; .*written 'package\.module:factory'",
            ),
            ("./own/nets:small", r"unknown model '\./own/nets:small'; .*written 'package\.module:factory'"),
        ],
    )
    def test_what_cannot_be_used_is_said(self, own_module: str, name: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            models.build(name, classes=5)

    def test_unknown_argument_is_named_with_the_known_ones(self, own_module: str) -> None:
        with pytest.raises(UsageError, match=r"no argument 'widht'; known: width; did you mean 'width'\?"):
            models.build(f"{own_module}:small", classes=5, arguments={"widht": 6})

    def test_refusal_of_the_factory_is_passed_on(self, own_module: str) -> None:
        with pytest.raises(UsageError, match=r"refuses its arguments \(width=3\): ValueError: the width must be even"):
            models.build(f"{own_module}:picky", classes=5, arguments={"width": 3})

    def test_mistake_inside_the_factory_is_named_with_its_place(self, own_module: str) -> None:
        with pytest.raises(UsageError, match=r"failed: NameError: name 'undefined_name'.*own_nets_for_test\.py:\d+\)"):
            models.build(f"{own_module}:broken", classes=5)


class TestNamesAndSettings:
    def test_names_are_those_for_small_images(self) -> None:
        he = [f"cifar/resnet{depth}" for depth in HE_DEPTHS]
        timms = [
            "cifar/resnet18",
            "cifar/resnet34",
            "cifar/resnet50",
            "cifar/resnet101",
            "cifar/mobilenetv3_large",
            "cifar/densenet121",
            "cifar/densenet169",
            "cifar/densenet201",
            "cifar/densenet264",
        ]
        assert models.names() == he + timms

    @pytest.mark.parametrize(
        ("name", "suggestion"),
        [
            ("cifar/resnt20", "cifar/resnet20"),
            ("resnet56", "cifar/resnet56"),
            ("cifar/mobilenet", "cifar/mobilenetv3_large"),
        ],
    )
    def test_unknown_name_lists_the_known_and_suggests(self, name: str, suggestion: str) -> None:
        with pytest.raises(UsageError) as caught:
            models.build(name, classes=10)
        message = str(caught.value)
        assert message.startswith(f"unknown model '{name}'; known: cifar/resnet20, cifar/resnet32, ")
        assert "timm/NAME, torchvision/NAME, transformers/MODEL_TYPE, package.module:factory" in message
        assert message.endswith(f"did you mean '{suggestion}'?")

    @pytest.mark.parametrize(("word", "sizes"), [("classes", (0, 3)), ("channels", (10, 0))])
    def test_sizes_must_be_positive(self, word: str, sizes: tuple[int, int]) -> None:
        with pytest.raises(UsageError, match=rf"at least 1 of its {word}; got 0"):
            models.build("cifar/resnet20", classes=sizes[0], channels=sizes[1])

    @pytest.mark.parametrize("width", [0, -1, 2.5, "wide", True])
    def test_width_must_be_a_positive_whole_number(self, width: object) -> None:
        with pytest.raises(UsageError, match=r"'width' of 'cifar/resnet20' must be a whole number from 1; got"):
            models.build("cifar/resnet20", classes=10, arguments={"width": width})

    def test_default_settings_build(self) -> None:
        settings = models.ModelSettings()
        assert settings.problems() == []
        model = models.build(settings.name, classes=10, arguments=settings.arguments)
        assert parameter_count(model) == 269722

    @pytest.mark.parametrize("name", ["timm/vit_tiny_patch16_224", "torchvision/resnet50", *models.names()])
    def test_good_settings_have_no_problems(self, name: str) -> None:
        assert models.ModelSettings(name=name).problems() == []

    def test_problems_are_found_without_building(self, own_module: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_args: object, **_keywords: object) -> None:
            raise AssertionError("a model was built")

        monkeypatch.setattr(nn.Module, "__init__", refuse)
        assert models.ModelSettings(f"{own_module}:broken").problems() == []
        assert models.ModelSettings("timm/resnet50", {"drop_rate": 0.1}).problems() == []
        [problem] = models.ModelSettings("cifar/resnet2").problems()
        assert problem.startswith("model.name: unknown model 'cifar/resnet2'; known: cifar/resnet20")
        assert "did you mean 'cifar/resnet" in problem
        found = models.ModelSettings("cifar/resnet20", {"widht": 8, "num_classes": 3}).problems()
        assert found == [
            "model.arguments: model 'cifar/resnet20' takes no argument 'widht'; known: width; did you mean 'width'?",
            "model.arguments: 'num_classes' cannot be given to model 'cifar/resnet20': "
            "it follows from the data; remove it",
        ]
        [problem] = models.ModelSettings("cifar/resnet50", {"stem_type": "deep"}).problems()
        assert "the cifar/ stem is fixed" in problem
