"""Each method against its definition: values worked out by hand, distributions, gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from hf_td.anatomy import read_anatomy
from hf_td.baselines import (
    L0,
    L1,
    Baseline,
    Dropout,
    Movement,
    QuantalSynapticDilution,
    RandomSubnetwork,
    Smallify,
    SoftMovement,
    VariationalDropout,
    attach_baseline,
    find_baseline,
)
from hf_td.baselines.attaching import AttachedBaseline, keyed_draws
from hf_td.baselines.base import Gate
from hf_td.baselines.l0 import hard_concrete, open_probability
from hf_td.baselines.variational import divergence, log_alpha
from hf_td.config import TargetedDropoutConfig
from hf_td.ranking.sites import plan_sites
from tests.tiny import tiny_model

QUERY = "bert.encoder.layer.0.attention.self.query"
DOWN = "bert.encoder.layer.0.output.dense"


def attached(method: Baseline, level: Any, **settings: Any) -> tuple[Any, AttachedBaseline]:
    """Return a tiny BERT in training mode with a baseline, and the baseline."""
    config = TargetedDropoutConfig(level=level, **settings)
    model = attach_baseline(tiny_model("bert").train(), method, config, examples=10)
    found = find_baseline(model)
    assert found is not None
    return model, found


def treatment_of(model: Any, name: str) -> Any:
    """Return the treatment of the site of this name."""
    found = find_baseline(model)
    assert found is not None
    return next(t for _, t in found if t.site.name == name)


def value(number: Any) -> float:
    """Return a scalar tensor as a number."""
    return float(number.detach())


def penalty_of(baseline: AttachedBaseline) -> Tensor:
    """Return the penalty of a method that has one."""
    penalty = baseline.penalty()
    assert penalty is not None
    return penalty


def original(model: nn.Module, name: str) -> Tensor:
    """Return the trained weight behind the parametrized one."""
    return model.get_parameter(f"{name}.parametrizations.weight.original")


@pytest.mark.parametrize(("kind", "missing"), [(Baseline, "treat"), (Gate, "factor")])
def test_what_a_method_has_to_say_is_abstract(kind, missing):
    with pytest.raises(TypeError, match=f"abstract .*{missing}"):
        kind()


# --- dropout and quantal synaptic dilution ---


def test_dropout_drops_at_its_rate_and_keeps_the_mean():
    model, baseline = attached(Dropout(rate=0.25), "weight")
    baseline.advance(0.0, update=3)
    weight, full = model.get_submodule(DOWN).weight, original(model, DOWN)
    kept = weight != 0
    assert_close(weight[kept], full[kept] / 0.75)
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.04)
    model.eval()
    assert torch.equal(model.get_submodule(DOWN).weight, full)


def test_dropout_of_units_drops_whole_heads_and_neurons():
    model, baseline = attached(Dropout(rate=0.5), "unit")
    baseline.advance(0.0, update=0)
    ratio = model.get_submodule(DOWN).weight / original(model, DOWN)
    assert set(ratio[0].round(decimals=4).tolist()) == {0.0, 2.0}
    assert_close(ratio, ratio[:1].expand_as(ratio))
    heads = model.bert.encoder.layer[0].attention.output.dense
    ratio = heads.weight / original(model, "bert.encoder.layer.0.attention.output.dense")
    by_head = ratio[0].view(4, 8)
    assert_close(by_head, by_head[:, :1].expand_as(by_head))


def test_a_draw_is_a_function_of_seed_and_update():
    model, baseline = attached(Dropout(), "unit", seed=1)
    drawn = {}
    for update in (0, 1, 0):
        torch.rand(update + 1)  # the global random state does not matter
        baseline.advance(0.0, update)
        drawn.setdefault(update, []).append(model.get_submodule(DOWN).weight.detach().clone())
    assert torch.equal(drawn[0][0], drawn[0][1])
    assert not torch.equal(drawn[0][0], drawn[1][0])


def test_drawing_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.rand(1)
    torch.manual_seed(5)
    with keyed_draws(1, 2):
        torch.rand(7)
    assert torch.equal(torch.rand(1), before)


def test_quantal_dilution_is_heterogeneous_and_keeps_the_mean_of_every_weight():
    method = QuantalSynapticDilution(rate=0.25, concentration=4.0, variation=0.5)
    model, baseline = attached(method, "weight")
    treatment = treatment_of(model, QUERY)
    release = treatment.release
    # Beta of mean .75 and concentration 4: variance .75 * .25 / 5.
    assert float(release.mean()) == pytest.approx(0.75, abs=0.02)
    assert float(release.var()) == pytest.approx(0.0375, abs=0.008)
    draws = []
    for update in range(400):
        baseline.advance(0.0, update)
        draws.append(treatment.drawn.clone())
    stacked = torch.stack(draws)
    assert float(stacked.mean()) == pytest.approx(1.0, abs=0.01)
    likely = release > 0.5
    assert_close(stacked.mean(0)[likely].mean(), torch.tensor(1.0), atol=0.01, rtol=0)
    silent = (stacked == 0).float().mean(0)
    assert_close(silent, 1 - release, atol=0.12, rtol=0)
    responses = (stacked * release)[stacked != 0]
    assert float(responses.std()) == pytest.approx(0.5, abs=0.02)
    model.eval()
    assert torch.equal(model.get_submodule(QUERY).weight, original(model, QUERY))


# --- L1 ---


def test_l1_is_the_sum_of_mean_magnitudes():
    model, baseline = attached(L1(penalty=0.5), "weight", include=(QUERY, DOWN))
    weights = [model.get_submodule(name).weight for name in (QUERY, DOWN)]
    expected = 0.5 * sum(value(w.abs().sum() / w.numel()) for w in weights)
    penalty = penalty_of(baseline)
    assert value(penalty) == pytest.approx(expected, rel=1e-6)
    penalty.backward()
    assert_close(weights[0].grad, 0.5 * weights[0].detach().sign() / weights[0].numel())


def test_l1_of_units_is_on_what_produces_them():
    model, baseline = attached(L1(penalty=1.0), "unit", include=(DOWN,))
    up = model.bert.encoder.layer[0].intermediate.dense.weight
    assert value(baseline.penalty()) == pytest.approx(value(up.abs().mean()))


# --- L0 ---


def test_hard_concrete_gates_by_hand():
    logits = torch.tensor([-10.0, 0.0, 10.0])
    assert_close(hard_concrete(logits), torch.tensor([0.0, 0.5, 1.0]))
    # logits 1, noise logit(.3): sigmoid((1 - .8473) * 1.5) * 1.2 - .1
    noise = torch.logit(torch.tensor(0.3))
    expected = 1.2 / (1 + math.exp(-1.5 * (1 + math.log(0.3 / 0.7)))) - 0.1
    assert_close(hard_concrete(torch.tensor(1.0), noise), torch.tensor(expected))


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
def test_gates_are_open_as_often_as_the_cost_says(logit):
    torch.manual_seed(0)
    logits = torch.full((200_000,), logit)
    drawn = hard_concrete(logits, torch.logit(torch.rand_like(logits)))
    expected = float(open_probability(logits)[0])
    assert float((drawn > 0).float().mean()) == pytest.approx(expected, abs=0.005)


def test_l0_starts_open_and_pays_for_open_gates():
    model, baseline = attached(L0(penalty=0.2, closed=0.1), "weight", include=(QUERY,))
    gate = treatment_of(model, QUERY)
    assert value(gate.logits.mean()) == pytest.approx(math.log(9), abs=0.002)
    assert value(gate.logits.std()) == pytest.approx(0.01, abs=0.001)
    # log(.1 / 1.1) * 2/3 = -1.5986; ten examples.
    each = 1 / (1 + torch.exp(-(gate.logits + 1.598597)))
    penalty = penalty_of(baseline)
    assert_close(penalty, 0.2 / 10 * each.sum())
    penalty.backward()
    assert_close(gate.logits.grad, 0.02 * (each * (1 - each)).detach())


def test_l0_weighs_a_unit_by_the_weights_that_produce_it():
    model, _ = attached(L0(), "unit")
    assert treatment_of(model, DOWN).weights == 32  # one row of the layer before
    heads = treatment_of(model, "bert.encoder.layer.0.attention.output.dense")
    assert heads.weights == 3 * 8 * 32  # eight rows of query, key and value


def test_l0_multiplies_by_drawn_gates_in_training_and_by_fixed_ones_in_eval():
    model, baseline = attached(L0(closed=0.5), "weight")
    baseline.advance(0.0, update=0)
    gate, layer = treatment_of(model, QUERY), model.get_submodule(QUERY)
    full = original(model, QUERY)
    assert_close(layer.weight, full * hard_concrete(gate.logits, gate.noise))
    layer.weight.sum().backward()
    assert gate.logits.grad.abs().sum() > 0
    model.eval()
    assert_close(layer.weight, full * hard_concrete(gate.logits))


# --- variational dropout ---


def test_divergence_by_hand():
    # At log alpha 0: .63576 * (1 - sigmoid(1.8732)) + .5 * ln 2.
    expected = 0.63576 * (1 - 1 / (1 + math.exp(-1.8732))) + 0.5 * math.log(2)
    assert_close(divergence(torch.tensor(0.0)), torch.tensor(expected))
    assert float(divergence(torch.tensor(8.0))) == pytest.approx(0, abs=1e-3)
    rising = divergence(torch.linspace(-8, 8, 50)).diff()
    assert (rising < 0).all()


def test_log_alpha_is_the_variance_over_the_squared_mean():
    means = torch.tensor([0.1, 1.0, 0.0])
    variances = torch.log(torch.tensor([0.02, math.exp(-20), 1.0]))
    assert_close(
        log_alpha(variances, means), torch.tensor([math.log(2), -8.0, 8.0]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("family", "name"), [("bert", DOWN), ("gpt2", "transformer.h.0.mlp.c_fc")])
def test_noise_on_outputs_has_the_variance_that_noise_on_weights_would_give(family, name):
    config = TargetedDropoutConfig(level="weight", include=(name,))
    method = VariationalDropout(initial=-3.0)
    model = attach_baseline(tiny_model(family).train(), method, config, examples=10)
    layer: Any = model.get_submodule(name)
    weight = layer.weight if family == "bert" else layer.weight.T
    torch.manual_seed(0)
    tokens = torch.randn(1, weight.shape[1]).expand(20_000, -1)
    noise = layer(tokens).detach() - F.linear(tokens, weight, layer.bias).detach()
    expected = math.exp(-3) * float(tokens[0].square().sum())
    assert float(noise.var()) == pytest.approx(expected, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    layer.eval()
    assert_close(layer(tokens), F.linear(tokens, weight, layer.bias))


def test_units_bear_noise_of_their_own():
    model, _ = attached(VariationalDropout(initial=-4.0), "unit", include=(DOWN,))
    treatment = treatment_of(model, DOWN)
    treatment.log_variance.data[0] = 0.0
    seen = []
    layer: Any = model.get_submodule(DOWN)
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    layer(torch.ones(20_000, 64))
    deviations = seen[0].detach().std(0)
    assert_close(deviations[0], torch.tensor(1.0), rtol=0.03, atol=0)
    assert_close(deviations[1:], torch.full((63,), math.exp(-2)), rtol=0.05, atol=0)


def test_the_divergence_warms_up_and_is_shared_by_the_examples():
    model, baseline = attached(VariationalDropout(penalty=0.5, warmup=0.4), "weight")
    total = sum(
        divergence(log_alpha(t.get_parameter("log_variance"), t.site.layer.weight)).sum()
        for _, t in baseline
    )
    for progress, grown in [(0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)]:
        baseline.advance(progress, update=1)
        assert_close(baseline.penalty(), total * (0.5 * grown / 10))
    assert model.training


# --- Smallify ---


def test_a_switch_whose_sign_flickers_is_off_for_good():
    model, baseline = attached(Smallify(penalty=0.1), "unit", include=(DOWN,))
    treatment = treatment_of(model, DOWN)
    signs = {0: [1, -1, -1, 1], 1: [1, -1, 1, 1]}
    variances = {0: [], 1: []}
    for update in range(4):
        for unit, path in signs.items():
            treatment.switches.data[unit] = 0.5 * path[update]
        baseline.advance(0.0, update)
        for unit in signs:
            variances[unit].append(float(treatment.variance[unit]))
    # mean 1, then .8 and .62; variance .9 * (0 + .1 * 4), then .9 * (.36 + .1 * 1.8 ** 2)
    assert variances[0][:3] == pytest.approx([0, 0.36, 0.6156])
    assert variances[1][2] == pytest.approx(0.9 * (0.36 + 0.1 * 0.2**2))
    assert treatment.alive[:3].tolist() == [0, 1, 1]
    assert_close(model.get_submodule(DOWN).weight[:, 0], torch.zeros(32))
    assert_close(model.get_submodule(DOWN).weight[:, 1], 0.5 * original(model, DOWN)[:, 1])
    assert value(baseline.penalty()) == pytest.approx(0.1 * (62 + 0.5))


def test_switches_may_start_as_in_the_paper():
    model, _ = attached(Smallify(spread=1.0), "weight")
    switches = treatment_of(model, DOWN).switches
    assert value(switches.min()) >= 0
    assert value(switches.mean()) == pytest.approx(0.5, abs=0.03)


# --- a random subnetwork ---


@pytest.mark.parametrize("level", ["weight", "unit"])
def test_a_random_subnetwork_has_its_size_and_depends_on_the_seed_alone(level):
    masks = {}
    for seed in (0, 1):
        model, baseline = attached(RandomSubnetwork(sparsity=0.75), level, seed=seed)
        masks[seed] = model.get_submodule(DOWN).weight != 0
        baseline.advance(0.5, update=9)
        assert torch.equal(model.get_submodule(DOWN).weight != 0, masks[seed])
        assert (masks[seed].sum(1) == 16).all()
    assert not torch.equal(masks[0], masks[1])
    model, _ = attached(RandomSubnetwork(), level, targeting=0.5)
    assert ((model.get_submodule(DOWN).weight != 0).sum(1) == 32).all()


# --- movement pruning ---


def test_movement_scores_get_the_gradient_of_the_mask():
    model, _ = attached(Movement(), "weight", include=(QUERY,))
    treatment, layer = treatment_of(model, QUERY), model.get_submodule(QUERY)
    tokens, wanted = torch.randn(5, 32), torch.randn(5, 32)
    treatment.mask[:, ::2] = 0  # masked entries get a gradient too
    (layer(tokens) * wanted).sum().backward()
    of_weight = wanted.T @ tokens
    full = original(model, QUERY)
    assert_close(treatment.importance.grad, of_weight * full.detach())
    assert_close(full.grad, of_weight * treatment.mask)


def test_the_score_of_a_unit_gets_the_sum_over_what_is_read_of_it():
    model, _ = attached(Movement(), "unit", include=("*.attention.output.dense",), layers=(0,))
    name = "bert.encoder.layer.0.attention.output.dense"
    tokens, wanted = torch.randn(5, 32), torch.randn(5, 32)
    (model.get_submodule(name)(tokens) * wanted).sum().backward()
    products = (wanted.T @ tokens) * original(model, name).detach()
    expected = products.sum(0).view(4, 8).sum(1)
    assert_close(treatment_of(model, name).importance.grad, expected)


def test_movement_keeps_the_highest_scores_of_each_output_unit():
    model, baseline = attached(Movement(sparsity=0.5, begin=0.0, end=0.8), "weight")
    treatment = treatment_of(model, QUERY)
    torch.manual_seed(0)
    treatment.importance.data.normal_()
    # Cubic: 1 - (1 - .4 / .8) ** 3 = .875 of one half, so 14 of 32.
    for progress, gone in [(0.0, 0), (0.4, 14), (0.8, 16), (1.0, 16)]:
        baseline.advance(progress, update=0)
        mask = model.get_submodule(QUERY).weight != 0
        assert (mask.sum(1) == 32 - gone).all()
    lowest = treatment.importance.sort(dim=1).values[:, 16:17]
    assert torch.equal(mask, treatment.importance >= lowest)


def test_soft_movement_masks_by_threshold_and_pays_for_the_sigmoids():
    method = SoftMovement(penalty=2.0, threshold=0.2, begin=0.0, end=0.5)
    model, baseline = attached(method, "unit", include=(DOWN, "*.1.output.dense"))
    treatment = treatment_of(model, DOWN)
    treatment.importance.data[:2] = torch.tensor([-1.5, -1.2])  # sigmoids .182 and .231
    baseline.advance(0.5, update=0)
    assert treatment.mask[:3].tolist() == [0, 1, 1]
    assert value(baseline.penalty()) == pytest.approx(
        2.0 * ((62 * 0.5 + 0.182426 + 0.231475) / 64 + 0.5) / 2, rel=1e-5
    )
    baseline.advance(0.25, update=0)  # .875 of the threshold, .175
    assert treatment.mask[:3].tolist() == [1, 1, 1]


# --- settings ---


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (L0, {"strength": 1}, r"unknown settings \['strength'\]; known are \['closed', 'learning"),
        (L0, {"penalty": "high"}, "settings are finite numbers; got {'penalty': 'high'}"),
        (L0, {"closed": 0.0}, r"closed is a probability in \(0, 1\), got 0.0"),
        (L0, {"learning_rate": 0}, "learning_rate is positive, got 0"),
        (L1, {"warmup": 1.5}, r"warmup is a fraction in \[0, 1\), got 1.5"),
        (L1, {"penalty": None}, "settings are finite numbers; got {'penalty': None}"),
        (Dropout, {"rate": 1.0}, r"rate is a fraction in \[0, 1\), got 1.0"),
        (QuantalSynapticDilution, {"variation": 0}, "variation is positive, got 0"),
        (Smallify, {"spread": 2}, r"spread is in \[0, 1\], got 2"),
        (Smallify, {"threshold": 0}, "threshold is positive, got 0"),
        (RandomSubnetwork, {"sparsity": 1}, r"sparsity is a fraction in \[0, 1\), got 1"),
        (Movement, {"end": 2}, "schedule begin and end are fractions"),
        (SoftMovement, {"threshold": 1}, r"threshold is in \(0, 1\), got 1"),
        (SoftMovement, {"warmup": -1}, r"warmup is a fraction in \[0, 1\), got -1"),
    ],
)
def test_bad_settings_are_refused(method, settings, message):
    with pytest.raises(ValueError, match=message):
        method.make("weight", settings)


def test_defaults_are_those_of_the_level():
    assert (L0.make("weight", {}).penalty, L0.make("unit", {}).penalty) == (0.1, 0.01)
    assert L0.make("unit", {"penalty": 3}).penalty == 3


def test_a_penalty_per_example_needs_the_number_of_examples():
    model = attach_baseline(tiny_model("bert"), L0(), TargetedDropoutConfig())
    found = find_baseline(model)
    assert found is not None
    with pytest.raises(ValueError, match="L0 divides its penalty by the size of the training"):
        found.penalty()


def test_a_baseline_treats_what_targeted_dropout_targets():
    config = TargetedDropoutConfig(attention_level="unit", feed_forward_level="weight")
    model = attach_baseline(tiny_model("bert"), Dropout(), config)
    found = find_baseline(model)
    assert found is not None
    bare = tiny_model("bert")
    names = [site.name for site in plan_sites(bare, read_anatomy(bare), config)]
    assert [t.site.name for _, t in found] == names
