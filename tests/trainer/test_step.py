from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.features import Featurizer
from common.policy import Policy, build_policy, load_weights, to_blob
from common.policy.flops_formula import flops_formula
from common.policy.moe import MixtureOfExperts, Routing, all_loads, max_violation, mixtures_of
from common.settings import PolicySettings, load_settings
from rollout.engine import GenerationEngine
from tests.factories import ARCHITECTURES, MIXED, TINY, make_context, make_index
from trainer.parallel import Ranks
from trainer.step import FeedbackSample, RlSample, SftSample, TrainingStep, autocast, pad_targets

SETTINGS = load_settings(
    "", ["rl.group_size=40", "trainer.learning_rate=0.01", "trainer.sparse_learning_rate=0.01"]
).model_copy(update={"policy": TINY})

every_architecture = pytest.mark.parametrize("settings", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())


def make_step(seed: int = 0, policy: PolicySettings = TINY) -> TrainingStep:
    settings = SETTINGS.model_copy(update={"policy": policy})
    return TrainingStep(build_policy(policy, seed), Featurizer(policy, make_index()), settings)


def sft(count: int = 6) -> list[SftSample]:
    sids = make_index().sids.astype(np.int64)
    return [SftSample(make_context(4 * n, seed=n), sids[n : n + 1 + n % 3]) for n in range(count)]


def rl(policy: Policy) -> RlSample:
    index, context = make_index(), make_context(8)
    [candidates] = GenerationEngine(policy, index, 40).generate([context])
    advantages = np.linspace(1, -1, 40).astype(np.float32)
    featurizer = Featurizer(policy.settings, index)
    return RlSample(
        context, featurizer, candidates.codes, candidates.log_probs, advantages, index.is_legal(candidates.codes)
    )


def log_probs(step: TrainingStep, sample: FeedbackSample | RlSample) -> np.ndarray:
    step.policy.eval()
    with torch.no_grad():
        memory = step.policy.encode(step.featurizer([sample.context]))
        found: np.ndarray = step.policy.log_probs(memory, torch.from_numpy(sample.codes)[None])[0].numpy()
    return found


@every_architecture
def test_steps_lower_the_loss_and_report_each_level(settings: PolicySettings) -> None:
    step = make_step(policy=settings)
    first = step.run(sft(), [], 0)
    for k in range(1, 30):
        last = step.run(sft(), [], k)
    assert first.targets == sum(len(s.codes) for s in sft())
    assert len(first.loss_per_level) == 3
    assert sum(last.loss_per_level) < 0.7 * sum(first.loss_per_level)


@every_architecture
def test_a_fresh_group_has_ratio_one_and_moves_the_policy_towards_its_advantages(settings: PolicySettings) -> None:
    step = make_step(policy=settings)
    group = rl(step.policy)
    metrics = step.run([], [group], 0)
    assert abs(metrics.mean_ratio - 1) < 1e-5
    assert metrics.clipped_share == 0
    assert metrics.rl_grad_norm > 0
    for k in range(1, 20):
        step.run([], [group], k)
    change = (log_probs(step, group) - group.log_probs_old).sum(-1)
    assert np.corrcoef(change, group.advantages)[0, 1] > 0.3


@pytest.mark.parametrize("objective", ["grpo", "ecpo", "gbpo"])
def test_every_objective_moves_the_policy_towards_the_advantages(objective: str) -> None:
    step = make_step()
    reinforcement = step.settings.rl.model_copy(update={"objective": objective, "lambda_format": 0.0})
    step = TrainingStep(step.policy, step.featurizer, step.settings.model_copy(update={"rl": reinforcement}))
    group = rl(step.policy)
    metrics = step.run([], [group], 0)
    negative = group.advantages < 0
    assert (metrics.mean_ratio == pytest.approx(1, abs=1e-5)) == (objective != "gbpo")
    for k in range(1, 20):
        step.run([], [group], k)
    change = (log_probs(step, group) - group.log_probs_old).sum(-1)
    assert change[~negative].mean() > change[negative].mean()


def aligning(**changes: object) -> TrainingStep:
    """A step that learns from pairs alone."""
    step = make_step()
    reinforcement = step.settings.rl.model_copy(update={"objective": "dpo", "lambda_format": 0.0} | changes)
    unclipped = step.settings.trainer.model_copy(update={"clip_norm": 1e9})
    settings = step.settings.model_copy(update={"rl": reinforcement, "trainer": unclipped})
    return TrainingStep(step.policy, step.featurizer, settings)


def paired(policy: Policy, winner: int = 30, loser: int = 2) -> RlSample:
    """A group whose winner the policy deems less probable than its loser."""
    advantages = np.zeros(40, np.float32)
    advantages[[winner, loser]] = 1, -1
    return replace(rl(policy), advantages=advantages)


def test_dpo_raises_the_winner_above_the_loser() -> None:
    step = aligning()
    group = paired(step.policy)
    metrics = step.run([], [group], 0)
    assert metrics.preference_loss == pytest.approx(np.log(2), abs=1e-5)
    assert metrics.mean_ratio == pytest.approx(1, abs=1e-5)
    assert metrics.clipped_share == 0
    for k in range(1, 20):
        last = step.run([], [group], k)
    change = (log_probs(step, group) - group.log_probs_old).sum(-1)
    assert change[30] - change[2] > 1
    assert 0 < last.preference_loss < metrics.preference_loss
    assert last.mean_ratio != pytest.approx(1, abs=1e-3)


def test_dpo_by_hand() -> None:
    """A reference that differs from the policy. The gradient is divided by the constant, not by the groups at hand."""
    norms = []
    for groups_per_step in (1, 4):
        step = aligning(beta=0.5, groups_per_step=groups_per_step, lambda_preference=1.0)
        group = paired(step.policy)
        old = group.log_probs_old.copy()
        old[30] -= 0.1
        old[2] += 0.2
        metrics = step.run([], [replace(group, log_probs_old=old)], 0)
        assert metrics.preference_loss == pytest.approx(np.log1p(np.exp(-0.5 * (0.3 + 0.6))), abs=1e-5)
        norms.append(metrics.rl_grad_norm)
    assert norms[0] == pytest.approx(4 * norms[1], rel=1e-4)


def test_a_group_without_a_pair_teaches_dpo_nothing_but_format() -> None:
    for weight in (0.0, 1.0):
        step = aligning(lambda_format=weight)
        sample = replace(rl(step.policy), advantages=np.zeros(40, np.float32), legal=np.ones(40, np.bool_))
        metrics = step.run([], [sample], 0)
        assert metrics.preference_loss == 0
        assert (metrics.rl_grad_norm > 0) == bool(weight)


def test_a_step_is_a_function_of_state_samples_and_number() -> None:
    one, two = make_step(), make_step()
    group = rl(one.policy)
    for k in range(3):
        one.run(sft(), [group], k)
        two.run(sft(), [group], k, inputs=[two.featurizer([sample.context for sample in sft()])])
    assert all(torch.equal(a, b) for a, b in zip(one.policy.parameters(), two.policy.parameters(), strict=True))


@pytest.mark.parametrize("policy", [TINY, MIXED])
def test_resuming_from_saved_state_equals_not_stopping(policy: PolicySettings) -> None:
    one, two = make_step(policy=policy), make_step(seed=5, policy=policy)
    for k in range(3):
        one.run(sft(), [], k)
    load_weights(two.policy, to_blob(one.policy))
    two.load_state_dict({name: tensor.clone() for name, tensor in one.state_dict().items()})
    one.run(sft(), [], 3)
    two.run(sft(), [], 3)
    assert to_blob(one.policy) == to_blob(two.policy)


def biases(policy: Policy) -> torch.Tensor:
    return torch.stack([module.bias for module in policy.modules() if isinstance(module, MixtureOfExperts)])


def test_each_step_moves_the_biases_of_all_mixtures_once_and_rollout_groups_move_none() -> None:
    step = make_step(policy=MIXED)
    metrics = step.run(sft(), [], 0)
    moved = biases(step.policy).clone()
    assert metrics.max_violation is not None
    assert metrics.max_violation > 0
    torch.testing.assert_close(moved.abs().amax(1), torch.full((2,), MIXED.moe.gamma))
    assert step.run([], [rl(step.policy)], 1).max_violation is None
    assert torch.equal(biases(step.policy), moved)
    assert make_step().run(sft(), [], 0).max_violation is None


def test_the_reported_violation_is_that_of_the_real_targets() -> None:
    policy = MIXED.model_copy(update={"moe": MIXED.moe.model_copy(update={"encoder_blocks": []})})
    step, other = make_step(policy=policy), make_step(policy=policy).policy
    samples = [SftSample(s.context, s.codes[: 1 if n else 3]) for n, s in enumerate(reversed(sft()))]
    passes = []
    for sample in samples:
        with Routing() as routing:
            memory = other.encode(step.featurizer([sample.context]))
            other.log_probs(memory, torch.from_numpy(sample.codes)[None])
        passes.append(routing)
    expected = max(max_violation(load) for load in all_loads(mixtures_of(other), passes).values())
    assert step.run(samples, [], 0).max_violation == pytest.approx(expected)


@pytest.mark.parametrize("balancing", ["auxiliary", "none"])
def test_biases_rest_where_balancing_is_not_by_them(balancing: str) -> None:
    moe = MIXED.moe.model_copy(update={"balancing": balancing, "alpha": 1.0})
    step = make_step(policy=MIXED.model_copy(update={"moe": moe}))
    plain = make_step(policy=MIXED)
    norm, plain_norm = step.run(sft(), [], 0).sft_grad_norm, plain.run(sft(), [], 0).sft_grad_norm
    assert not biases(step.policy).any()
    assert (norm == plain_norm) == (balancing == "none")


@every_architecture
def test_a_step_reports_the_operations_of_its_samples_however_they_are_batched(settings: PolicySettings) -> None:
    step = make_step(policy=settings)
    formula, group = flops_formula(settings), rl(step.policy)
    expected = sum(formula.forward(step.featurizer([s.context]), [len(s.codes)]) for s in sft())
    assert step.run(sft(), [], 0).flops == 3 * expected
    expected += formula.forward(step.featurizer([group.context]), [40], together=False)
    trainer = step.settings.trainer.model_copy(update={"micro_batch": 2})
    step.settings = step.settings.model_copy(update={"trainer": trainer})
    assert step.run(sft(), [group], 1).flops == 3 * expected


def heeding(seed: int = 0) -> TrainingStep:
    step = make_step(seed)
    reinforcement = step.settings.rl.model_copy(update={"lambda_feedback": 1.0})
    unclipped = step.settings.trainer.model_copy(update={"clip_norm": 1e9})
    settings = step.settings.model_copy(update={"rl": reinforcement, "trainer": unclipped})
    return TrainingStep(step.policy, step.featurizer, settings)


def shown(ranks: list[float], negative: list[bool], seed: int = 0) -> FeedbackSample:
    codes = make_index().sids[: len(ranks)].astype(np.int64)
    unknown = np.full(codes.shape, np.nan, np.float32)
    return FeedbackSample(make_context(8, seed), codes, unknown, np.array(ranks), np.array(negative))


def test_feedback_raises_what_was_watched_long_and_lowers_what_was_disliked() -> None:
    step, sample = heeding(), shown([0.9, 0.1, 0.2, 0.3], [False, True, False, False])
    before = log_probs(step, sample).sum(-1)
    metrics = step.run([], [], 0, [sample])
    assert (metrics.feedback_positive, metrics.feedback_negative) == (1, 1)
    for k in range(1, 10):
        step.run([], [], k, [sample])
    change = log_probs(step, sample).sum(-1) - before
    assert change[0] > max(change[1:])
    assert change[1] < min(change[[0, 2, 3]])


def test_feedback_on_items_from_elsewhere_is_fine_tuning_on_the_positives() -> None:
    """With pi_old = sg(pi) the gradient of a positive is that of its next-token loss, a level's mean and of all shown."""
    step, other = heeding(), heeding()
    sample = shown([0.9, 0.1, 0.2, 0.3], [False] * 4)
    step.run([], [], 0, [sample])
    other.run([SftSample(sample.context, sample.codes[:1])], [], 0)
    for ours, theirs in zip(step.policy.parameters(), other.policy.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None and theirs.grad is not None:
            torch.testing.assert_close(12 * ours.grad.to_dense(), theirs.grad.to_dense(), atol=1e-6, rtol=1e-4)


def test_feedback_on_own_items_is_relative_to_the_logged_probability() -> None:
    step = heeding()
    sample = shown([0.9, 0.1, 0.2, 0.3], [False] * 4)
    own = FeedbackSample(sample.context, sample.codes, log_probs(step, sample) + np.log(2), sample.ranks, sample.negative)
    other = heeding()
    step.run([], [], 0, [sample])
    other.run([], [], 0, [own])
    for ours, theirs in zip(step.policy.parameters(), other.policy.parameters(), strict=True):
        if ours.grad is not None and theirs.grad is not None:
            torch.testing.assert_close(theirs.grad.to_dense(), ours.grad.to_dense() / 2, atol=1e-7, rtol=1e-4)


def test_without_ranks_and_dislikes_feedback_changes_nothing() -> None:
    step = heeding()
    before = to_blob(step.policy)
    assert step.run([], [], 0, [shown([np.nan] * 3, [False] * 3)]).feedback_loss == 0
    assert to_blob(step.policy) == before


def test_nothing_to_train_on_changes_nothing() -> None:
    step = make_step()
    before = [p.clone() for p in step.policy.parameters()]
    assert step.run([], [], 0).targets == 0
    assert all(torch.equal(a, b) for a, b in zip(before, step.policy.parameters(), strict=True))


@pytest.mark.parametrize("name", [name for name, s in ARCHITECTURES.items() if s.architecture != "session_decoder"])
def test_shared_contexts_give_the_per_item_loss(name: str) -> None:
    """Targets that share a context cost one encoder pass and have the same losses as trained one by one."""
    step, other = make_step(policy=ARCHITECTURES[name]), make_step(policy=ARCHITECTURES[name])
    context, codes = make_context(12), make_index().sids[:4].astype(np.int64)
    together = step.run([SftSample(context, codes)], [], 0)
    alone = other.run([SftSample(context, codes[k : k + 1]) for k in range(4)], [], 0)
    np.testing.assert_allclose(together.loss_per_level, alone.loss_per_level, rtol=1e-5)
    np.testing.assert_allclose(together.sft_grad_norm, alone.sft_grad_norm, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_micro_batches_add_up_to_the_batch(size: int) -> None:
    gradients, losses = [], []
    for micro_batch in (0, size):
        step = make_step()
        step.settings = SETTINGS.model_copy(
            update={"trainer": SETTINGS.trainer.model_copy(update={"micro_batch": micro_batch, "clip_norm": 1e9})}
        )
        losses.append(step.run(sft(), [], 0).loss_per_level)
        gradients.append([parameter.grad for parameter in step.policy.parameters()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@every_architecture
def test_bf16_stays_close_to_fp32(settings: PolicySettings) -> None:
    """Stated tolerance: 0.01 of a log-probability, and after 30 steps 3 % of what the loss fell by; seeds differ by more."""
    step = make_step(policy=settings)
    samples = sft()
    codes, _ = pad_targets([sample.codes for sample in samples])
    inputs = step.featurizer([sample.context for sample in samples])
    exact = step.policy.session_log_probs(step.policy.encode(inputs), codes)
    with autocast(torch.device("cpu"), "bf16"):
        rounded = step.policy.session_log_probs(step.policy.encode(inputs), codes)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, atol=0.01, rtol=0)
    first, last = -float(exact.detach().sum(-1).mean()), {}
    for precision in ("fp32", "bf16"):
        step = make_step(policy=settings)
        step.settings = SETTINGS.model_copy(update={"trainer": SETTINGS.trainer.model_copy(update={"precision": precision})})
        for number in range(30):
            metrics = step.run(sft(), [], number)
        last[precision] = sum(metrics.loss_per_level)
    assert abs(last["bf16"] - last["fp32"]) < 0.03 * (first - last["fp32"])


def test_a_session_decoder_learns_from_the_items_before() -> None:
    """What is shown first decides what follows: only a policy that reads its session's items can tell."""
    context = make_context(3)
    pairs = [np.array([[a, a, a], [b, b, b]], np.int64) for a, b in ((1, 5), (2, 6), (3, 7))]
    losses = []
    for name in ("session-codes-only", "encoder-decoder"):
        step = make_step(policy=ARCHITECTURES[name])
        for k in range(60):
            metrics = step.run([SftSample(context, codes) for codes in pairs], [], k)
        losses.append(sum(metrics.loss_per_level))
    assert losses[0] < 0.5 * np.log(3) + 0.1 < 0.9 * losses[1]


def test_every_step_of_every_rank_draws_apart() -> None:
    ranks = [TrainingStep(build_policy(TINY), Featurizer(TINY, make_index()), SETTINGS, Ranks(rank, 2)) for rank in (0, 1)]
    assert len({rank._seed(number) for rank in ranks for number in range(5)}) == 10
