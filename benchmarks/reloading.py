"""What becomes of a Transformers model that is taken apart, saved, and loaded again.

Of every architecture a small model is made (``small_models``), unraveled, and three subnets are taken out of it: the
smallest, a middle one, and one with a gap between its layers. Each is written by ``save_pretrained``, read by
``from_pretrained``, and run. The whole model is before: where that is not restored, subnets are not tried. It ends as

  restored    what was read computes what was written, and nothing was said
  said so     `extract` warned that it would not be restored
  refused     `extract` refused to take it out
  wrong       something else was read, and nobody had warned
"""

from __future__ import annotations

import tempfile
import warnings
from typing import Any

import torch
from small_models import NotTried, small_model
from torch import Tensor, nn

from stimulative.errors import UsageError
from stimulative.residual import configs_of, without_caches

OUTCOMES = "restored", "said so", "refused", "wrong"


def try_type(model_type: str) -> dict[str, Any]:
    """Try an architecture of Transformers.

    Returns:
        ``status`` (found, not residual, not tried, failed), ``model``, ``stages`` and ``subnets`` as of other families;
        ``outcomes``, how many subnets ended how; and ``reason``, the first warning or refusal, or why nothing was
        tried.
    """
    import stimulative

    try:
        model, inputs = small_model(model_type)
    except NotTried as error:
        return _without_model("not tried", "", str(error))
    name = type(model).__name__
    try:
        network = stimulative.unravel(model, inputs)
    except UsageError as error:
        status = "not residual" if "no residual blocks found" in str(error) else "failed"
        return _without_model(status, name, str(error).splitlines()[0])
    whole = _after_reloading(model, inputs)
    if whole is not None:
        return _without_model("not tried", name, f"the whole model is not restored: {whole}")
    found = [try_subnet(network, subnet, inputs) for subnet in _subnets(network)]
    outcomes = {outcome: sum(each == outcome for each, _ in found) for outcome in OUTCOMES}
    reasons = [reason for outcome, reason in sorted(found, key=lambda each: -OUTCOMES.index(each[0])) if reason]
    return {
        "status": "failed" if outcomes["wrong"] else "found",
        "model": name,
        "stages": [[stage.name, stage.blocks] for stage in network.stages],
        "subnets": network.space.count,
        "outcomes": {outcome: count for outcome, count in outcomes.items() if count},
        "reason": reasons[0] if reasons else "",
    }


def try_subnet(network: Any, subnet: Any, inputs: dict[str, Tensor]) -> tuple[str, str]:
    """How a subnet ends, and what was said of it."""
    import stimulative

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            taken = stimulative.extract(network, subnet, "keep")
        except UsageError as error:
            return "refused", str(error).splitlines()[0]
    warned = [str(each.message) for each in said if "builds another model" in str(each.message)]
    difference = _after_reloading(taken, inputs)
    if warned:
        return "said so", warned[0].partition(": ")[2].partition(". The module itself")[0]
    return ("restored", "") if difference is None else ("wrong", difference)


def _subnets(network: Any) -> list[Any]:
    from stimulative import Subnet

    middle = Subnet.from_depths([(low + high) // 2 for low, high in network.space.ranges])
    gap = Subnet(tuple((0, stage.blocks - 1) if stage.blocks > 2 else (0,) for stage in network.stages))
    return list(dict.fromkeys([network.space.smallest, middle, gap]))


def _after_reloading(model: nn.Module, inputs: dict[str, Tensor]) -> str | None:
    """In what a model differs from what is loaded of it; None if in nothing."""
    expected = _tensors(model, inputs)
    try:
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            loaded = type(model).from_pretrained(folder).eval()
            got = _tensors(loaded, inputs)
    except Exception as error:  # whatever saving, loading or running meets
        return f"{type(error).__name__}: {error}".splitlines()[0]
    if expected.keys() != got.keys():
        return f"it returns {sorted(got)} instead of {sorted(expected)}"
    for key, value in expected.items():
        if value.shape != got[key].shape or not torch.allclose(
            value.double(), got[key].double(), rtol=0, atol=1e-4 * max(float(value.abs().amax()), 1e-6)
        ):
            return f"{key} differs"
    return None


def _tensors(model: nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    with torch.no_grad(), without_caches(configs_of(model)):
        return {key: value for key, value in model(**inputs).items() if isinstance(value, Tensor) and value.numel()}


def _without_model(status: str, name: str, reason: str) -> dict[str, Any]:
    return {"status": status, "model": name, "stages": [], "subnets": 0, "outcomes": {}, "reason": reason}
