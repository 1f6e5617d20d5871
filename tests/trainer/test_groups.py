from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from common.endpoints import Endpoints
from common.features import Featurizer
from common.history import HistoryStore
from common.messages import RolloutGroup
from common.policy import build_policy, to_blob
from common.process_log import user_tag
from common.stream import Record
from tests.trainer.fake_fleet import answer
from tests.trainer.test_record_buffer import ListReader
from tests.trainer.tiny_run import grown_index, stream_sessions, tiny_index, tiny_settings
from trainer.advantages import pair_advantages
from trainer.batches import BatchBuilder
from trainer.checkpoint import CheckpointError, Identity
from trainer.duration_reward import PlayTimes
from trainer.frontier import Asked, Frontier
from trainer.groups import GroupJudge, Judgement, group_line, log_dropped
from trainer.indexes import Indexes
from trainer.journal import JournalError, SettledGroup
from trainer.loop import to_request
from trainer.parity import MAX_PARITY_ERROR, Snapshots
from trainer.record_buffer import RecordBuffer
from trainer.resume import OpenRun, Run
from trainer.session_filter import SessionFilter
from trainer.staleness import Staleness
from trainer.step import TrainingStep

torch.set_num_threads(1)
TOPIC = "p.sessions"
IDENTITY = Identity(
    run="r",
    prefix="p",
    partitions={},
    logs={},
    tokenizer_version="t",
    settings_digest="d",
    machine="m",
    torch="t",
    threads=1,
)
Change = Callable[[RolloutGroup], RolloutGroup]


@dataclass
class Scene:
    """A run with one outstanding request, and the honest group that answers it."""

    opened: OpenRun
    judge: GroupJudge
    group: RolloutGroup

    def outcome(self, value: RolloutGroup | bytes, taken: set[tuple[int, int]] | None = None) -> str:
        return self.judge.judge(self.record(value), taken or set()).settled.outcome

    @staticmethod
    def record(value: RolloutGroup | bytes) -> Record:
        return Record("p.rollout-groups", 0, 5, 0, None, value if isinstance(value, bytes) else value.to_bytes(), [])


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    settings, index = tiny_settings("stream.partitions=1", "rl.rate=1", "sync.max_lag=1"), tiny_index()
    with HistoryStore(tmp_path / "history.sqlite") as history:
        builder = BatchBuilder(settings, index, history, SessionFilter(settings.filter), PlayTimes(100))
        records = [Record(TOPIC, 0, n, 0, None, one.to_bytes(), []) for n, one in enumerate(stream_sessions(6))]
        draft = builder.build(records, {0: (0, 6)}).requests[3]
        training = TrainingStep(build_policy(settings.policy), Featurizer(settings.policy, index), settings)
        run = Run(IDENTITY, training, builder.session_filter, builder.play_times, Frontier(), Staleness(1, [0, 5]))
        run.frontier.request(draft.position, draft.asked)
        buffers = [RecordBuffer(ListReader([], {0: 0})) for _ in range(2)]
        endpoints = Endpoints(run="r", kafka="", prefix="p", reward="")
        index.save(tmp_path / "index" / "000001")
        indexes = Indexes(tmp_path / "index", settings.policy, [])
        opened = OpenRun(tmp_path, settings, endpoints, indexes, history, run, *buffers)
        blob = to_blob(build_policy(settings.policy, 5))

        def blob_of(version: int) -> bytes:
            if version == 7:
                raise CheckpointError("gone")
            return blob

        judge = GroupJudge(opened, Snapshots(blob_of))
        yield Scene(opened, judge, answer(to_request(draft, IDENTITY, index, TOPIC), 5, blob, settings, index))
        indexes.close()


def test_an_honest_group_is_trained_with_the_context_of_its_request(scene: Scene) -> None:
    judgement = scene.judge.judge(scene.record(scene.group), set())
    assert judgement.settled.outcome == "trained"
    assert judgement.settled.request == (0, 3)
    sample = judgement.sample
    assert sample is not None
    assert sample.context.digest() == scene.group.digest
    assert judgement.parity_error is not None
    assert judgement.parity_error < 1e-5
    assert sample.legal.tolist() == [True] * 5 + [False] * 3
    assert (sample.advantages[5:] == 0).all()
    assert abs(float(sample.advantages.sum())) < 1e-5
    line = group_line(judgement, 9, 0, scene.group.produced_ms + 4)
    assert (line["legal_share"], line["version"], line["produced_to_trained_ms"]) == (5 / 8, 5, 4)


def test_for_dpo_a_group_is_a_pair(scene: Scene) -> None:
    scene.judge.objective = "dpo"
    sample = scene.judge.judge(scene.record(scene.group), set()).sample
    assert sample is not None
    assert sample.advantages.tolist() == pair_advantages(scene.group.rewards).tolist()
    assert sorted(sample.advantages.tolist()) == [-1, *[0] * 6, 1]


def changed(**fields: object) -> Change:
    return lambda group: group.model_copy(update=fields)


def bent(group: RolloutGroup) -> RolloutGroup:
    shifted = [[value - 0.01 for value in row] for row in group.log_probs]
    return group.model_copy(update={"log_probs": shifted})


def failed(group: RolloutGroup) -> RolloutGroup:
    empty: dict[str, object] = {"codes": [], "log_probs": [], "item_ids": [], "rewards": []}
    return group.model_copy(update={**empty, "failure": "reward service: 503"})


def mislabelled(group: RolloutGroup) -> RolloutGroup:
    return group.model_copy(update={"item_ids": [-1, *group.item_ids[1:]], "rewards": [None, *group.rewards[1:]]})


def out_of_range(group: RolloutGroup) -> RolloutGroup:
    return group.model_copy(update={"codes": [*group.codes[:-1], [0, 0, 8]]})


@pytest.mark.parametrize(
    ("change", "outcome", "settles"),
    [
        (changed(run="another"), "other_run", False),
        (changed(topic="p.elsewhere"), "invalid", False),
        (changed(offset=2), "invalid", False),
        (changed(request_id="r/p.sessions/0/4", offset=4), "invalid", False),  # never requested
        (changed(parameter_version=0), "trained", True),  # one version behind
        (changed(parameter_version=3), "unknown_version", True),
        (changed(digest="other"), "digest_mismatch", True),
        (changed(index_version=2), "index_gone", True),
        (changed(tokenizer_version="other"), "invalid", True),
        (out_of_range, "invalid", True),
        (mislabelled, "invalid", True),
        (failed, "failed", True),
        (bent, "parity", True),
    ],
)
def test_every_other_group_has_its_reason(scene: Scene, change: Change, outcome: str, settles: bool) -> None:
    judgement = scene.judge.judge(scene.record(change(scene.group)), set())
    assert judgement.settled.outcome == outcome
    assert (judgement.settled.request is not None) == settles
    assert (judgement.sample is not None) == (outcome == "trained")


def test_stale_and_lost_versions(scene: Scene) -> None:
    scene.opened.run.staleness.publish(7)
    assert scene.outcome(scene.group) == "trained"
    assert scene.outcome(scene.group.model_copy(update={"parameter_version": 0})) == "stale"
    assert scene.outcome(scene.group.model_copy(update={"parameter_version": 7})) == "unknown_version"


def test_the_first_group_wins_within_a_step_and_between_steps(scene: Scene) -> None:
    assert scene.outcome(scene.group, {(0, 3)}) == "duplicate"
    scene.opened.run.frontier.settle((0, 3))
    assert scene.outcome(scene.group) == "duplicate"


@pytest.mark.parametrize(
    ("value", "reason"), [(b"nonsense", "JSON"), (b'{"schema_version": 2}', "upgrade consumers first"), (None, "codes")]
)
def test_what_is_no_group_is_kept_with_its_reason(scene: Scene, value: bytes | None, reason: str) -> None:
    huge = scene.group.model_copy(update={"codes": [*scene.group.codes[:-1], [0, 0, 2**63]]})
    record = scene.record(value or huge)
    judgement = scene.judge.judge(record, set())
    assert (judgement.settled.outcome, judgement.settled.request) == ("invalid", None)
    for told in (judgement, scene.judge.recall(judgement.settled, record)):
        assert told.refused is not None
        assert told.refused[0] is record
        assert reason in told.refused[1]


def test_without_spread_only_the_format_term_is_left(scene: Scene) -> None:
    flat = [None if reward is None else 0.5 for reward in scene.group.rewards]
    sample = scene.judge.judge(scene.record(scene.group.model_copy(update={"rewards": flat})), set()).sample
    assert sample is not None
    assert not sample.advantages.any()
    assert sample.legal.any()


def test_recalling_gives_the_sample_that_was_judged(scene: Scene) -> None:
    record = scene.record(scene.group)
    judged = scene.judge.judge(record, set())
    recalled = scene.judge.recall(judged.settled, record)
    assert judged.sample is not None
    assert recalled.sample is not None
    assert recalled.sample.context.digest() == judged.sample.context.digest()
    assert np.array_equal(recalled.sample.advantages, judged.sample.advantages)
    stale = judged.settled.model_copy(update={"outcome": "stale"})
    assert scene.judge.recall(stale, record).sample is None


def test_parity_tells_another_versions_numbers(scene: Scene) -> None:
    other = to_blob(build_policy(scene.opened.settings.policy, 6))
    snapshots = Snapshots(lambda _: other)
    arrays = np.array(scene.group.codes), np.array(scene.group.log_probs, np.float32)
    sample = scene.judge.judge(scene.record(scene.group), set()).sample
    assert sample is not None
    assert snapshots.parity_error(1, sample.context, sample.featurizer, *arrays) > MAX_PARITY_ERROR


def test_a_group_is_judged_and_trained_by_the_index_it_was_made_with(scene: Scene) -> None:
    folder = scene.opened.folder / "index"
    grown_index(2).save(folder / "000002")
    scene.opened.indexes.go_to(2)
    sample = scene.judge.judge(scene.record(scene.group), set()).sample
    assert sample is not None
    assert sample.featurizer.index.version == 1
    grown_index(3).save(folder / "000003")
    scene.opened.indexes.go_to(3)
    assert scene.outcome(scene.group) == "index_gone"
    settled = SettledGroup(record=(0, 5), request=(0, 3), outcome="trained")
    with pytest.raises(JournalError, match="index 1, which is gone"):
        scene.judge.recall(settled, scene.record(scene.group))
    with pytest.raises(JournalError, match="item index 1 is needed"):
        scene.opened.indexes.go_to(1)


def test_a_dropped_group_is_told_with_its_reason_and_without_its_user(caplog: pytest.LogCaptureFixture) -> None:
    frontier = Frontier()
    frontier.request((1, 7), Asked(user_id=987654321, time_ms=1, tab=0))
    for outcome in ("trained", "given_up"):
        log_dropped(Judgement(SettledGroup(record=None, request=(1, 7), outcome=outcome)), frontier)
    (record,) = caplog.records
    assert record.getMessage() == "the group of request (1, 7) is dropped, given_up"
    assert (vars(record)["reason"], vars(record)["user"]) == ("given_up", user_tag(987654321))
    assert "987654321" not in str(vars(record))
