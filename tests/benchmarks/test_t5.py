from __future__ import annotations

import pytest
import torch

from benchmarks.t5 import as_t5, encoder_inputs, generate
from common.features import Featurizer
from common.policy import build_policy
from common.policy.encoder_decoder import EncoderDecoder
from rollout.beam_search import beam_search
from tests.factories import TINY, make_context, make_index


@pytest.mark.parametrize("joint", [True, False])
def test_hugging_face_finds_the_same_beams_with_our_weights(joint: bool) -> None:
    policy = build_policy(TINY.model_copy(update={"lifelong_length": 0, "lifelong_queries": 0})).eval()
    assert isinstance(policy, EncoderDecoder)
    for parameter in policy.parameters():
        parameter.data.mul_(2.0)
    inputs = Featurizer(policy.settings, make_index())([make_context(3, seed=1), make_context(30, seed=2)])
    with torch.no_grad():
        ours = beam_search(policy, policy.encode(inputs), 6)
        codes, scores = generate(as_t5(policy, joint), *encoder_inputs(policy, inputs), 6)
    torch.testing.assert_close(scores, ours.scores, atol=1e-4, rtol=0)
    assert torch.equal(codes, ours.codes)
