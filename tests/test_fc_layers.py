"""Fine-tuning of a head: the rule of its updates, resuming to the bit, and what validation keeps."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from recording_progress import RecordingProgress
from sppnet.errors import ConfigError, DataError, ModelError, SppnetError
from sppnet.heads import fc_layers
from sppnet.heads.fc_layers import BIAS_RATE, FinetuneState, best_row, detection_head, finetune

D, K = 12, 3
CENTRES = torch.randn(K + 1, D, generator=torch.Generator().manual_seed(9)) * 2


def draw(step, size=32):
    """Vectors around a corner a class, by torch's generator, which finetune seeds for the step."""
    labels = torch.randint(0, K + 1, (size,))
    return CENTRES[labels] + torch.randn(size, D), labels


def head(seed=0, dropout=0.5):
    torch.manual_seed(seed)
    return detection_head(D, 16, K, dropout)


def held_out(module):
    """The share that a head gets wrong of vectors it never saw."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, K + 1, (400,), generator=generator)
    vectors = CENTRES[labels] + torch.randn(400, D, generator=generator)
    return lambda: (module(vectors).argmax(dim=1) != labels).double().mean().item()


def bits(module):
    return {name: one.clone() for name, one in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- the head ------------------------------------------------------------------------------------


def test_a_detection_head_has_an_output_for_background_and_a_small_fc8():
    torch.manual_seed(0)
    module = detection_head(50, 300, 20, dropout=0.3)
    assert [name for name, _ in module.named_children()][:2] == ["standardise", "fc6"]
    assert [name for name, _ in module.named_children()][1::3] == ["fc6", "fc7", "fc8"]
    assert module(torch.zeros(2, 50)).shape == (2, 21)
    assert module.fc8.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not module.fc8.bias.any()
    assert module.drop6.p == module.drop7.p == 0.3


def test_vectors_are_standardised_by_a_sample():
    sample = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7
    sample[:, 4] = 2.0
    head = detection_head(5, 8, 2)
    head.standardise.measure(sample)
    standard = head.standardise(sample)
    torch.testing.assert_close(standard.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard[:, :4].std(0), torch.ones(4))
    assert not standard[:, 4].any()  # a constant stays one
    assert {"standardise.mean", "standardise.std"} <= head.state_dict().keys()


# --- updates -------------------------------------------------------------------------------------


def plain_sgd(module, steps, rate, momentum, decay):
    """The rule, written out: v ← momentum·v + gradient (+ decay·weight), weight ← weight − rate·v."""
    speed = {name: torch.zeros_like(one) for name, one in module.named_parameters()}
    for step in range(steps):
        vectors, labels = fixed(step)
        module.zero_grad()
        nn.functional.cross_entropy(module(vectors), labels).backward()
        with torch.no_grad():
            for name, one in module.named_parameters():
                bias = name.endswith("bias")
                speed[name] = momentum * speed[name] + one.grad + (0 if bias else decay) * one
                one -= rate(step) * (2 if bias else 1) * speed[name]


def fixed(step):
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(0, K + 1, (32,), generator=generator)
    return CENTRES[labels] + torch.randn(32, D, generator=generator), labels


def test_updates_are_those_of_the_rule(monkeypatch):
    monkeypatch.setattr(fc_layers, "WEIGHT_DECAY", 0.1)
    ours, plain = head(dropout=0.0), head(dropout=0.0)
    rows = finetune(ours, fixed, steps=20, learning_rate=0.02, validate_every=5)
    plain_sgd(plain, 20, lambda step: 0.02 * 0.1 ** ((step >= 10) + (step >= 15)), 0.9, 0.1)
    assert BIAS_RATE == 2
    assert [row.step for row in rows] == [5, 10, 15, 20]
    assert [row.learning_rate for row in rows] == pytest.approx([0.02, 0.02, 0.002, 0.0002])
    for (name, one), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6, msg=name)


def test_it_learns():
    module = head()
    before = held_out(module.eval())()
    told = RecordingProgress()
    rows = finetune(
        module, draw, steps=150, learning_rate=0.05, validate=held_out(module), validate_every=60,
        progress=told,
    )  # fmt: skip
    assert before > 0.4  # unlearnt, it is right by chance alone
    assert held_out(module)() == best_row(rows).error < 0.05
    assert rows[-1].loss < 0.5 * math.log(K + 1)
    assert [row.step for row in rows] == [60, 120, 150]
    assert told.advances == [(1, "")] * 150
    assert told.stages == []  # it is the caller's
    assert not module.training


def test_the_loss_of_a_row_is_the_mean_of_its_steps():
    losses = []

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, 2))

        def forward(self, vectors):
            return vectors + 0 * self.weight

    def given(step):
        vectors = torch.tensor([[float(step), 0.0]])
        losses.append(nn.functional.cross_entropy(vectors, torch.tensor([1])).item())
        return vectors, torch.tensor([1])

    rows = finetune(Constant(), given, steps=5, validate_every=2)
    expected = [sum(losses[0:2]) / 2, sum(losses[2:4]) / 2, losses[4]]
    assert [row.loss for row in rows] == pytest.approx(expected)


def test_a_trunk_learns_along_at_its_own_rate(monkeypatch):
    torch.manual_seed(0)
    trunk, module = nn.Linear(D, D), head()
    frozen = nn.Parameter(torch.ones(3), requires_grad=False)
    seldom = nn.Parameter(torch.ones(3))
    before = trunk.weight.detach().clone(), trunk.bias.detach().clone()
    steps = []

    def pooled(step):
        vectors, labels = fixed(step)
        return trunk(vectors), labels

    def after_one(state):
        steps.append((before[0] - trunk.weight.detach(), before[1] - trunk.bias.detach()))

    extra = [*trunk.parameters(), frozen, seldom]
    monkeypatch.setattr(fc_layers, "WEIGHT_DECAY", 0.0)
    monkeypatch.setattr(fc_layers, "EXTRA_RATE", 0.2)
    options = {"learning_rate": 0.01, "validate_every": 1}
    finetune(module, pooled, steps=1, extra_parameters=extra, save=after_one, **options)
    weight_moved, bias_moved = steps[0]
    torch.testing.assert_close(weight_moved, 0.01 * 0.2 * trunk.weight.grad, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(bias_moved, 0.01 * 0.2 * 2 * trunk.bias.grad, rtol=1e-3, atol=1e-7)
    assert frozen.eq(1).all()
    assert seldom.eq(1).all()


def test_what_needs_no_gradient_stays():
    module = head()
    module.fc6.requires_grad_(False)
    before = bits(module)
    finetune(module, draw, steps=3)
    changed = [name for name, one in module.state_dict().items() if not torch.equal(one, before[name])]
    assert changed == ["fc7.weight", "fc7.bias", "fc8.weight", "fc8.bias"]


# --- validation ----------------------------------------------------------------------------------


def scripted(module, errors, seen):
    """A validation that says what it is told, and keeps the weights it was asked about."""
    errors = iter(errors)

    def validate():
        assert not module.training
        assert not torch.is_grad_enabled()
        seen.append(bits(module))
        return next(errors)

    return validate


@pytest.mark.parametrize(
    ("errors", "best"),
    [
        pytest.param([0.4, 0.2, 0.3, 0.5], 1, id="in between"),
        pytest.param([0.4, 0.3, 0.2, 0.1], 3, id="the last"),
        pytest.param([0.0, 0.3, 0.0, 0.0], 0, id="of equal ones the first"),
        pytest.param([math.inf, 0.9, 1.0, 0.95], 1, id="after infinity"),
    ],
)
def test_the_weights_of_the_lowest_error_are_kept(errors, best):
    module, seen = head(), []
    rows = finetune(
        module, draw, steps=8, learning_rate=0.05, validate_every=2, validate=scripted(module, errors, seen)
    )
    assert best_row(rows) is rows[best]
    assert [row.error for row in rows] == errors
    assert same(bits(module), seen[best])
    assert not same(seen[0], seen[1])


def test_the_weights_given_stay_if_no_step_makes_them_better():
    module, seen = head(), []
    given = bits(module)
    errors = [0.1, 0.3, 0.2]
    rows = finetune(
        module, draw, steps=4, validate_every=2, validate_first=True, validate=scripted(module, errors, seen)
    )
    assert [(row.step, row.error) for row in rows] == [(0, 0.1), (2, 0.3), (4, 0.2)]
    assert rows[0].loss is None
    assert same(bits(module), given)
    assert not same(seen[1], given)


def test_without_validation_the_last_weights_stay():
    module, states = head(), []
    rows = finetune(module, draw, steps=5, validate_every=2, save=lambda state: states.append(bits(module)))
    assert same(bits(module), states[-1])
    assert best_row(rows) is None
    assert best_row([]) is None


# --- stopping and going on -----------------------------------------------------------------------


def to_files(folder, states):
    """A `save` that writes every state, and reads it back."""

    def save(state):
        path = folder / f"{state.step}.safetensors"
        save_file(state.tensors, path)
        rows = json.loads(json.dumps(state.to_json()))
        states[state.step] = FinetuneState.from_json(rows, load_file(path))

    return save


class Odd(nn.Module):
    """A head with a buffer and a parameter that is seldom used."""

    def __init__(self):
        super().__init__()
        self.norm, self.fc = nn.BatchNorm1d(D), nn.Linear(D, K + 1)
        self.seldom = nn.Parameter(torch.ones(2))

    def forward(self, vectors):
        return self.fc(self.norm(vectors))


@pytest.mark.parametrize("stopped_after", [4, 8, 12, 14])
@pytest.mark.parametrize(
    "make",
    [pytest.param(head, id="a head with dropout"), pytest.param(lambda seed=0: Odd(), id="an odd head")],
)
def test_a_resumed_training_ends_with_the_same_bits(stopped_after, make, tmp_path):
    states = {}
    options = {"steps": 14, "learning_rate": 0.1, "validate_every": 4, "seed": 5}

    def train(module, trunk, start=None, save=None):
        def pooled(step):
            vectors, labels = draw(step)
            return trunk(vectors), labels

        extra = list(trunk.parameters())
        return finetune(
            module,
            pooled,
            extra_parameters=extra,
            validate=held_out(module),
            start=start,
            save=save,
            **options,
        )

    torch.manual_seed(1)
    module, trunk = make(), nn.Linear(D, D)
    rows = train(module, trunk, save=to_files(tmp_path, states))
    assert sorted(states) == [4, 8, 12, 14]
    torch.manual_seed(2)
    resumed, other_trunk = make(), nn.Linear(D, D)
    again = train(resumed, other_trunk, start=states[stopped_after])
    assert again == rows
    assert same(bits(resumed), bits(module))
    assert same(bits(other_trunk), bits(trunk))


def test_a_state_is_left_as_it_was(tmp_path):
    states = {}
    finetune(head(), draw, steps=4, validate_every=2, save=to_files(tmp_path, states))
    before = {name: one.clone() for name, one in states[2].tensors.items()}
    finetune(head(), draw, steps=4, validate_every=2, start=states[2])
    assert same(before, states[2].tensors)


def test_seeds_make_different_trainings():
    ends = []
    for seed in (0, 0, 1):
        module = head()
        finetune(module, draw, steps=3, seed=seed)
        ends.append(bits(module))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


def tampered(change):
    states = []
    finetune(head(), draw, steps=2, save=states.append)
    tensors = dict(states[0].tensors)
    change(tensors)
    return FinetuneState(states[0].rows, tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda t: t.pop("weights.head.fc6.bias"), r"fc6.bias should .*\(16,\); got None", id="missing"
        ),
        pytest.param(
            lambda t: t.update({"weights.head.fc9": torch.ones(2)}), r"None; got \(2,\)", id="unknown"
        ),
        pytest.param(
            lambda t: t.update({"momentum.head.fc8.bias": torch.ones(2)}), r"\(4,\); got \(2,\)", id="shape"
        ),
        pytest.param(
            lambda t: t.update({"best.head.fc8.bias": torch.ones(4)}), "best.head", id="best of nothing"
        ),
    ],
)
def test_a_state_of_another_head_is_refused(change, message):
    module = head(seed=3)
    before = bits(module)
    with pytest.raises(ModelError, match=message):
        finetune(module, draw, steps=4, start=tampered(change))
    assert same(bits(module), before)


def test_a_state_beyond_the_end_is_refused():
    with pytest.raises(ConfigError, match="2 steps behind it; ask for more than 1"):
        finetune(head(), draw, steps=1, start=tampered(lambda tensors: None))


# --- what is refused -----------------------------------------------------------------------------


def diverging(step):
    vectors, labels = draw(step)
    return vectors * (math.inf if step == 2 else 1), labels


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        pytest.param(
            diverging,
            {},
            SppnetError,
            r"nan at step 2: .*lower learning_rate \(now 0.0001\)",
            id="NaN",
        ),
        pytest.param(lambda step: draw(step, 0), {}, DataError, "and some; got 0 and 0", id="an empty batch"),
        pytest.param(
            lambda step: (draw(step)[0], torch.zeros(3)), {}, DataError, "32 and 3", id="few labels"
        ),
        pytest.param(
            draw, {"validate": lambda: math.nan}, SppnetError, "after 1 steps is no number", id="error"
        ),
        pytest.param(draw, {"steps": 0}, ConfigError, "1 or more; got 0 and 1", id="no steps"),
        pytest.param(draw, {"validate_every": 0}, ConfigError, "1 or more", id="never validated"),
        pytest.param(draw, {"learning_rate": 0.0}, ConfigError, "learning_rate above 0", id="no rate"),
    ],
)
def test_what_cannot_be_trained_is_refused(given, options, error, message):
    with pytest.raises(error, match=message):
        finetune(head(), given, **{"steps": 4, "validate_every": 1, **options})


def test_a_head_that_cannot_learn_is_refused():
    with pytest.raises(ModelError, match="nothing to train"):
        finetune(head().requires_grad_(False), draw, steps=1)
