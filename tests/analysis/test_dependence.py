"""The terms of the diagnostic against explicit Hessians."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from transformers import BertConfig, BertForSequenceClassification

from hf_td import patch_model, prune_model
from hf_td.analysis import measure_dependence
from hf_td.analysis.expansion import expand
from tests.families import tiny_family
from tests.tiny import tiny_inputs, tiny_model, with_random_biases

every_level = pytest.mark.parametrize("level", ["weight", "unit"])


@pytest.fixture
def model() -> Any:
    """Return two layers with weights large enough for the second order to matter."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
        initializer_range=0.3,
    )
    return with_random_biases(BertForSequenceClassification(config)).double()


@pytest.fixture
def batches() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "input_ids": torch.randint(0, 20, (rows, 5), generator=generator),
            "labels": torch.randint(0, 2, (rows,), generator=generator),
        }
        for rows in (3, 5)
    ]


def test_of_a_quadratic_the_prediction_is_the_truth():
    torch.manual_seed(0)
    matrix, slope = torch.randn(6, 6, dtype=torch.double), torch.randn(6, dtype=torch.double)
    hessian = matrix + matrix.T
    parameters = {n: torch.randn(2, dtype=torch.double, requires_grad=True) for n in "abc"}
    keep = {"a": [0.0, 1.0], "b": [0.0, 0.0], "c": [1.0, 0.0]}
    steps = {n: p.detach() * torch.tensor(keep[n]).double() for n, p in parameters.items()}

    def loss_at(values) -> torch.Tensor:
        theta = torch.cat(list(values.values()))
        return theta @ hessian @ theta / 2 + slope @ theta

    terms = expand(lambda: loss_at(parameters), parameters, steps, {"ab": "ab", "c": "c"})
    true = loss_at({n: p - steps[n] for n, p in parameters.items()}) - loss_at(parameters)
    predicted = sum(t.linear + t.curvature for t in terms.values())
    assert predicted == pytest.approx(true.item(), rel=1e-12)
    theta, d = torch.cat(list(parameters.values())).detach(), torch.cat(list(steps.values()))
    gradient = hessian @ theta + slope
    assert terms["ab"].linear == pytest.approx(float(-gradient[:4] @ d[:4]))
    assert terms["ab"].within == pytest.approx(float(d[:4] @ hessian[:4, :4] @ d[:4] / 2))
    assert terms["ab"].between == pytest.approx(float(d[:4] @ hessian[:4, 4:] @ d[4:] / 2))
    assert terms["c"].between == pytest.approx(terms["ab"].between)
    assert terms["c"].kept == pytest.approx(float((theta - d)[4:] @ hessian[4:] @ d))


def _explicit(model: Any, batches: Any, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return gradient and full Hessian of the mean loss over all rows, in these parameters."""
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    sizes = [parameters[n].numel() for n in names]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = zip(names, flat.split(sizes), strict=True)
        values = {n: part.view_as(parameters[n]) for n, part in parts}
        total: Any = 0
        for batch in batches:
            call = functional_call(model, {**parameters, **values}, kwargs=batch)
            total = total + call.loss * len(batch["labels"])
        return total / 8

    model.eval()
    model.set_attn_implementation("eager")
    theta = torch.cat([parameters[n].flatten() for n in names])
    gradient = torch.autograd.functional.jacobian(loss, theta)
    hessian = torch.autograd.functional.hessian(loss, theta, vectorize=True)
    assert isinstance(gradient, torch.Tensor)
    assert isinstance(hessian, torch.Tensor)
    return gradient, hessian


# At the unit level S is what the consumer reads.
_PRUNED = {"weight": "weight", "unit": ".output.dense.weight"}


@every_level
def test_the_terms_are_those_of_the_full_hessian(model, batches, level):
    found = measure_dependence(model, 0.5, batches, level=level, importance="magnitude")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    prune_model(model, 0.5, level=level, importance="magnitude")
    steps = {n: before[n] - p.detach() for n, p in model.named_parameters()}
    names = [n for n, step in steps.items() if step.any() and n.endswith(_PRUNED[level])]
    model.load_state_dict(before, strict=False)
    gradient, hessian = _explicit(model, batches, names)
    d = torch.cat([steps[n].flatten() for n in names])
    theta = torch.cat([before[n].flatten() for n in names])
    assert found.total.linear == pytest.approx(float(-gradient @ d))
    assert found.total.curvature == pytest.approx(float(d @ hessian @ d / 2))
    assert found.total.kept == pytest.approx(float((theta - d) @ hessian @ d))
    assert abs(found.total.curvature) > 1e-4  # else the test would show nothing
    owner = [_block(n) for n in names for _ in range(steps[n].numel())]
    assert [block.label for block in found.blocks] == list(dict.fromkeys(owner))
    for block in found.blocks:
        own = torch.tensor([o == block.label for o in owner])
        inner, outer = d * own, d * ~own
        assert block.removed == int(inner.count_nonzero())
        assert block.terms.linear == pytest.approx(float(-gradient @ inner))
        assert block.terms.within == pytest.approx(float(inner @ hessian @ inner / 2))
        assert block.terms.between == pytest.approx(float(inner @ hessian @ outer / 2))
        assert block.terms.kept == pytest.approx(float(((theta - d) * own) @ hessian @ d))


def _block(name: str) -> str:
    part = "attention" if ".attention." in name else "feed-forward"
    return f"{name.split('.')[3]} {part}"


@every_level
def test_the_true_change_is_what_pruning_does(model, batches, level):
    found = measure_dependence(model, 0.5, batches, level=level, importance="magnitude")

    def loss() -> float:
        with torch.no_grad():
            return sum(float(model(**b).loss) * len(b["labels"]) for b in batches) / 8

    model.eval()
    assert found.loss == pytest.approx(loss())
    only = {
        "attention": {"feed_forward_level": "none"},
        "feed-forward": {"attention_level": "none"},
    }
    state = {n: p.clone() for n, p in model.state_dict().items()}
    for block in found.blocks:
        layer, part = block.label.split()
        settings: Any = {"level": level, "layers": [int(layer)], **only[part]}
        prune_model(model, 0.5, importance="magnitude", **settings)
        assert block.true == pytest.approx(loss() - found.loss)
        model.load_state_dict(state)
    prune_model(model, 0.5, level=level, importance="magnitude")
    assert found.true == pytest.approx(loss() - found.loss)


def test_a_small_step_is_predicted_well(model, batches):
    """The error of the second-order prediction is of third order."""
    errors = []
    for scale in (1e-2, 1e-3):
        small = type(model)(model.config).double()
        small.load_state_dict(model.state_dict())
        with torch.no_grad():
            weight = small.bert.encoder.layer[0].output.dense.weight
            # What is removed is tiny. The residual keeps the norm from scaling it up again.
            weight[:, :4] *= scale
        found = measure_dependence(
            small, 0.5, batches, include=["*.0.output.dense"], importance="magnitude"
        )
        errors.append(abs(found.predicted - found.true))
        assert errors[-1] < 0.02 * abs(found.true)
    assert errors[1] < errors[0] / 500


@every_level
@pytest.mark.parametrize("patched", [False, True])
def test_the_model_is_left_as_it_was(level, patched):
    model: Any = tiny_model("bert").train()
    if patched:
        patch_model(model, level=level, importance="magnitude")
    model.bert.embeddings.eval()
    for parameter in model.bert.encoder.layer[0].parameters():
        parameter.requires_grad_(False)
    state = {n: p.clone() for n, p in model.state_dict().items()}
    flags = [
        (m.training, m.config._attn_implementation if hasattr(m, "config") else "")
        for m in model.modules()
    ]
    wanted = [p.requires_grad for p in model.parameters()]
    batch = {**tiny_inputs(model), "labels": torch.tensor([0, 1])}
    found = measure_dependence(model, 0.5, [batch], level=level, importance="magnitude")
    assert len(found.blocks) == 4
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters())
    assert flags == [
        (m.training, m.config._attn_implementation if hasattr(m, "config") else "")
        for m in model.modules()
    ]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


@every_level
def test_a_patched_model_gives_what_the_plain_one_does(level):
    found = []
    for patched in (False, True):
        model: Any = tiny_model("bert")
        if patched:
            patch_model(model.train(), level=level, importance="magnitude")
        batch = {**tiny_inputs(model), "labels": torch.tensor([0, 1])}
        found.append(measure_dependence(model, 0.5, [batch], level=level, importance="magnitude"))
    assert found[0] == found[1]


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5_gated", "vit"])
def test_families(family):
    model: Any = tiny_model(family)
    inputs = tiny_inputs(model)
    labels = inputs.get("input_ids", torch.tensor([0, 1]))
    if model.config.is_encoder_decoder:
        labels = inputs["decoder_input_ids"].contiguous()
    found = measure_dependence(model, 0.5, [{**inputs, "labels": labels}], level="unit")
    assert len({block.label for block in found.blocks}) == len(found.blocks) >= 4
    assert found.true != 0
    assert all(block.removed for block in found.blocks)


def test_what_cannot_be_measured_is_refused(model, batches):
    with pytest.raises(ValueError, match="at least one batch"):
        measure_dependence(model, 0.5, [])
    with pytest.raises(ValueError, match=r"returned no loss\. Pass batches with labels"):
        measure_dependence(model, 0.5, [{"input_ids": batches[0]["input_ids"]}])
    with pytest.raises(ValueError, match="sparsity is the fraction to remove"):
        measure_dependence(model, 1.5, batches)


def test_nothing_removed_changes_nothing(model, batches):
    found = measure_dependence(model, 0.0, batches)
    assert (found.blocks, found.true, found.predicted) == ((), 0.0, 0.0)
    assert isinstance(model, nn.Module)


@pytest.mark.parametrize(("family", "kind"), [("mixtral", "experts"), ("bert", "layers")])
def test_what_is_left_out_as_a_whole_is_refused(family, kind):
    other: dict[str, Any] = {f"{kind}_level": "unit", "attention_level": "none"}
    other["feed_forward_level"] = "none"
    mixture = tiny_family(family)
    with pytest.raises(ValueError, match=rf"whole {kind} of .* Use {kind}_level='none'"):
        measure_dependence(mixture, 0.5, [tiny_inputs(mixture)], level="unit", **other)
