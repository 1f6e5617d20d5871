"""The plain worker on a real Redis, with a real HTTP server as the reward service."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
import torch

from common.context import Context
from common.messages import NO_ITEM, RolloutGroup, Sampler, decode
from common.parameter_channel import Publisher
from common.policy import build_policy, to_blob
from common.settings import Settings, save_settings
from rollout.actor import Answer, RolloutWorker
from tests.faults.proxy import Proxy
from tests.rollout.reward_stub import Reply, RewardStub, scores_of
from tests.rollout.tiny_run import CODES, GROUP, LEVELS, tiny_index, tiny_request, write_run


@dataclass
class World:
    folder: Path
    settings: Settings
    stub: RewardStub
    publisher: Publisher

    def publish(self, version: int, seed: int) -> None:
        self.publisher.publish(version, to_blob(build_policy(self.settings.policy, seed)))

    def worker(self) -> closing[RolloutWorker]:
        return closing(RolloutWorker("rollout-0", str(self.folder), first_version_s=0.3))


@pytest.fixture
def world(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A run folder of a run of its own, a reward service, and the trainer's end of the parameter channel."""
    monkeypatch.setenv("ONEREC_REDIS__URL", redis_url)
    with RewardStub() as stub:
        run = uuid.uuid4().hex
        endpoints = {"run": run, "kafka": "127.0.0.1:1", "prefix": "t", "reward": stub.url}
        settings = write_run(tmp_path, endpoints, ["rollout.timeout_s=2"])
        with closing(Publisher(redis_url, run, keep_s=60, timeout_s=5.0)) as publisher:
            yield World(tmp_path, settings, stub, publisher)


def groups_of(answer: Answer) -> list[RolloutGroup]:
    groups = [decode(RolloutGroup, group) for group in answer.groups]
    assert all(isinstance(group, RolloutGroup) for group in groups), groups
    return [group for group in groups if isinstance(group, RolloutGroup)]


def test_groups_carry_candidates_their_scores_and_where_they_came_from(world: World) -> None:
    world.publish(0, seed=1)
    request = tiny_request(user_id=7)
    with world.worker() as worker:
        answer = worker.handle([request, tiny_request(user_id=8)])
    group, other = groups_of(answer)
    assert (group.request_id, group.digest, group.partition, group.offset) == (request.request_id, request.digest, 0, 7)
    assert (group.actor, group.parameter_version, group.reward_version, group.index_version) == ("rollout-0", 0, "stub-1", 1)
    assert (len(group.codes), len(group.codes[0]), group.sampler.width) == (GROUP, LEVELS, GROUP)
    assert group.item_ids == tiny_index().head_items(group.codes).tolist()
    legal = [item for item in group.item_ids if item != NO_ITEM]
    assert 0 < len(legal) < GROUP  # both kinds occur, or this test shows nothing
    assert [reward for reward in group.rewards if reward is not None] == scores_of(legal)
    assert other.request_id != group.request_id
    assert answer.legality == pytest.approx((len(legal) + sum(item != NO_ITEM for item in other.item_ids)) / (2 * GROUP))
    assert answer.failures == 0


def teacher_forced(world: World, worker: RolloutWorker, group: RolloutGroup, context: Context, seed: int) -> torch.Tensor:
    """A group's log-probabilities by the policy with the weights of a seed."""
    policy = build_policy(world.settings.policy, seed).eval()
    with torch.no_grad():
        memory = policy.encode(worker._engines[1].featurizer([context]))
        return policy.log_probs(memory, torch.tensor([group.codes]))[0]


def test_logged_probabilities_are_those_of_the_published_weights(world: World) -> None:
    world.publish(3, seed=5)
    request = tiny_request(user_id=7)
    with world.worker() as worker:
        (group,) = groups_of(worker.handle([request]))
        expected = teacher_forced(world, worker, group, Context.from_message(request.context), 5)
    assert torch.allclose(torch.tensor(group.log_probs), expected, atol=1e-5)


@pytest.mark.parametrize(("top_k", "top_p", "distinct"), [(2, 1.0, 2**LEVELS), (CODES, 0.01, 1)])
def test_candidates_may_be_draws_from_the_truncated_policy(world: World, top_k: int, top_p: float, distinct: int) -> None:
    rl = world.settings.rl.model_copy(update={"candidates": "sample", "top_k": top_k, "top_p": top_p})
    save_settings(world.settings.model_copy(update={"rl": rl}), world.folder / "settings.json")
    world.publish(0, seed=1)
    request = tiny_request(user_id=7)
    asked_anew = request.model_copy(update={"request_id": "r/sessions/0/8"})
    with world.worker() as worker:
        group, other = groups_of(worker.handle([request, asked_anew]))
        _, again = groups_of(worker.handle([asked_anew, request]))
        expected = teacher_forced(world, worker, group, Context.from_message(request.context), 1)
    assert group.sampler == Sampler(kind="sample", width=GROUP, top_k=top_k, top_p=top_p)
    assert len(group.codes) == GROUP
    drawn = {tuple(codes) for codes in group.codes}
    assert len(drawn) <= distinct < GROUP  # a beam's are all different
    assert torch.allclose(torch.tensor(group.log_probs), expected, atol=1e-5)
    assert group.item_ids == tiny_index().head_items(group.codes).tolist()
    assert again.codes == group.codes
    if distinct > 1:
        assert len(drawn) > 1
        assert other.codes != group.codes


def test_parameters_are_swapped_between_batches_and_acknowledged(world: World) -> None:
    world.publish(0, seed=1)
    with world.worker() as worker:
        (before,) = groups_of(worker.handle([tiny_request(1)]))
        world.publish(1000, seed=2)
        (after,) = groups_of(worker.handle([tiny_request(1)]))
        assert world.publisher.used()["rollout-0"] == [0, 1000]
    assert (before.parameter_version, after.parameter_version) == (0, 1000)
    assert before.log_probs != after.log_probs


def test_without_a_parameter_version_a_worker_does_not_start(world: World) -> None:
    with pytest.raises(TimeoutError, match=r"no parameter version of run \w+ appeared within 0.3 s"):
        world.worker()


def test_a_reward_that_cannot_be_had_fails_the_group_and_no_other(world: World) -> None:
    world.publish(0, seed=1)
    world.stub.script.append(Reply(422))
    with world.worker() as worker:
        answer = worker.handle([tiny_request(1), tiny_request(2)])
    failed, scored = groups_of(answer)
    assert "answered 422" in failed.failure
    assert (failed.codes, failed.rewards, failed.reward_version) == ([], [], "")
    assert (failed.request_id, failed.parameter_version) == (tiny_request(1).request_id, 0)
    assert not scored.failure
    assert answer.failures == 1


def test_a_hanging_reward_service_fails_the_groups_within_the_batchs_time(world: World) -> None:
    world.publish(0, seed=1)
    world.stub.script.append(Reply(delay_s=30.0))
    with world.worker() as worker:
        answer = worker.handle([tiny_request(1), tiny_request(2)])
    assert ["reward service" in group.failure for group in groups_of(answer)] == [True, True]
    assert answer.score_ms < 1000 * world.settings.rollout.timeout_s


def test_an_index_version_that_is_not_held_is_gone_and_a_newer_one_is_taken_up(world: World) -> None:
    world.publish(0, seed=1)
    with world.worker() as worker:
        gone, other = groups_of(worker.handle([tiny_request(1, index_version=2), tiny_request(1, tokenizer_version="t9")]))
        tiny_index(version=2).save(world.folder / "index" / "000002")
        old, new = groups_of(worker.handle([tiny_request(1), tiny_request(1, index_version=2)]))
    assert gone.failure == "gone: item index 2 of tokenizer t1 is not held, only 1 of t1"
    assert other.failure == "gone: item index 1 of tokenizer t9 is not held, only 1 of t1"
    assert (old.index_version, new.index_version) == (1, 2)
    assert new.item_ids == tiny_index(version=2).head_items(new.codes).tolist()


def test_a_newer_index_is_loaded_while_the_old_one_is_asked_for_and_a_damaged_one_never(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.item_index.follower.LOOK_EVERY_S", 0.0)
    world.publish(0, seed=1)
    with world.worker() as worker:
        tiny_index(version=2).save(world.folder / "index" / "000002")
        deadline = time.monotonic() + 20
        while list(worker._indexes.held) != [1, 2]:
            (old,) = groups_of(worker.handle([tiny_request(1)]))
            assert (old.index_version, old.failure) == (1, "")
            assert time.monotonic() < deadline
        tiny_index(version=3).save(world.folder / "3")
        (world.folder / "3" / "sids.npy").write_bytes(b"torn")
        (world.folder / "3").rename(world.folder / "index" / "000003")
        asked = [tiny_request(1, index_version=version) for version in (3, 2, 1)]
        torn, *good = groups_of(worker.handle(asked))
    assert torn.failure == "gone: item index 3 of tokenizer t1 is not held, only 1 of t1, 2 of t1"
    assert [(group.index_version, group.failure) for group in good] == [(2, ""), (1, "")]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"endpoints\.json is missing"):
        RolloutWorker("rollout-0", str(tmp_path))
    (tmp_path / "endpoints.json").write_text(json.dumps({"run": "r"}))
    with pytest.raises(ValueError, match="kafka, prefix, reward"):
        RolloutWorker("rollout-0", str(tmp_path))


def test_a_channel_that_does_not_answer_does_not_take_the_time_of_every_batch(
    world: World, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that hangs takes its timeout several times, here more than there is for a batch: none would ever be scored."""
    world.publish(0, seed=1)
    plain = urlsplit(redis_url)
    assert plain.port
    proxy = Proxy(("127.0.0.1", plain.port))
    monkeypatch.setenv("ONEREC_REDIS__URL", urlunsplit(plain._replace(netloc=f":{plain.password}@{proxy.address}")))
    monkeypatch.setenv("ONEREC_REDIS__TIMEOUT_S", "0.5")
    with world.worker() as worker:
        with proxy.stalled():
            answers = [worker.handle([tiny_request(user_id=user)]) for user in range(3)]
        assert [answer.failures for answer in answers] == [1, 0, 0]
        world.publish(1, seed=2)
        deadline = time.monotonic() + 30
        while worker.handle([tiny_request(user_id=9)]).parameter_version != 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    proxy.close()
