"""The item teacher's targets against their definition by enumeration, and that it teaches."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
import torch

from common.features import Featurizer
from common.item_index import ItemIndex
from common.policy import Memory, Policy, build_policy
from common.settings import SettingsError, load_settings
from tests.factories import ARCHITECTURES, make_context, make_index
from trainer.item_teacher import ItemTeacher
from trainer.optimizer import build_optimizer
from trainer.pretraining import Fitter
from trainer.step import SftSample, pad_targets

PATH = ARCHITECTURES["encoder-decoder-item-path"]


def encoded(policy: Policy, index: ItemIndex) -> tuple[Memory, torch.Tensor, torch.Tensor]:
    memory = policy.encode(Featurizer(PATH, index)([make_context(n, seed=n) for n in (2, 7)]))
    codes, mask = pad_targets([index.sids[3:5].astype(np.int64), index.sids[8:9].astype(np.int64)])
    return memory, codes, mask


def test_the_loss_is_that_of_its_definition() -> None:
    """Three targets of two contexts; every item's probability and every marginal written out."""
    index, policy = make_index(items=30), build_policy(PATH).eval()
    for parameter in policy.parameters():
        parameter.data.mul_(3.0)
    memory, codes, mask = encoded(policy, index)
    logits = policy.session_logits(memory, codes, mask)
    keys = np.unique(index.keys(index.sids))
    leaves = torch.from_numpy(np.stack([keys // index.codes**2, keys // index.codes % index.codes, keys % index.codes], 1))
    rows = index.rows(index.head_items(leaves.numpy()))
    vid = torch.from_numpy(1 + index.item_ids[rows] % (PATH.item_buckets - 1))
    items = policy.event.item(vid, torch.from_numpy(index.sids[rows].astype(np.int64)) + 1)
    losses = []
    for r, t in mask.nonzero().tolist():
        log_item = (items @ memory.begin[r, 0]).log_softmax(-1)
        target = codes[r, t]
        loss = -log_item[(leaves == target).all(-1)].squeeze()
        for k in range(3):
            below = (leaves[:, :k] == target[:k]).all(-1)
            share = log_item.exp() * below
            wanted = torch.zeros(index.codes).index_add(0, leaves[:, k], share / share.sum())
            log_probs = logits[r, t, k].log_softmax(-1)
            loss = loss - 0.7 * (wanted * log_probs).sum() - 0.3 * log_probs[target[k]]
        losses.append(loss)
    taught = ItemTeacher(policy, index, 0.7).loss(memory, logits, codes, mask)
    torch.testing.assert_close(taught, torch.stack(losses).mean(), rtol=1e-5, atol=1e-5)


def test_the_teacher_itself_learns_from_the_items_that_came_and_not_from_its_pupil() -> None:
    index, policy = make_index(items=30), build_policy(PATH).eval()
    memory, codes, mask = encoded(policy, index)
    logits = policy.session_logits(memory, codes, mask)
    (of_logits,) = torch.autograd.grad(ItemTeacher(policy, index, 1.0).loss(memory, logits, codes, mask), [logits])
    given = logits.detach().requires_grad_()
    frozen = Memory(memory.keys_values, memory.mask, memory.begin.detach())
    (expected,) = torch.autograd.grad(ItemTeacher(policy, index, 1.0).loss(frozen, given, codes, mask), [given])
    torch.testing.assert_close(of_logits, expected)  # targets are constants


@pytest.mark.parametrize("share", [0.0, 0.9])
def test_pretraining_with_it_still_lowers_the_next_token_loss(share: float) -> None:
    settings = load_settings("", ["pretrain.workers=2", "policy.item_path=true", f"pretrain.item_distillation={share}"])
    index, policy = make_index(), build_policy(PATH)
    samples = [SftSample(make_context(4 * n, seed=n), index.sids[n : n + 1].astype(np.int64)) for n in range(6)]
    optimizer = build_optimizer(policy, 1e-2, 1e-2, 0.0)
    with closing(Fitter(policy, optimizer, Featurizer(PATH, index), settings)) as fitter:
        losses = [fitter.fit(fitter.shares(samples)) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_teacher_needs_the_item_path() -> None:
    with pytest.raises(SettingsError, match=r"pretrain\.item_distillation must be 0 without policy\.item_path, got 0\.5"):
        load_settings("", ["pretrain.item_distillation=0.5"])
