"""Every metric of every worker, in one place, named ``onerec_<worker>_<what>_<unit>``.

Counters end in ``_total``; other names end in their unit, where ``number`` is a version or what the help says, ``nats`` a
loss, ``flops`` are floating-point operations, and ``norm`` and ``ratio`` have no unit. Workers import the constants below;
`common.probes` serves them.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, registry=REGISTRY)


def _seconds(name: str, text: str, *labels: str) -> Histogram:
    return Histogram(name, text, labels, buckets=SECONDS, registry=REGISTRY)


TRAINER_SESSIONS_CONSUMED = _counter("onerec_trainer_sessions_consumed_total", "Sessions read from the stream.")
TRAINER_SESSIONS_KEPT = _counter("onerec_trainer_sessions_kept_total", "Sessions that the filter let through to training.")
TRAINER_SESSIONS_DUPLICATE = _counter(
    "onerec_trainer_sessions_duplicate_total", "Sessions dropped: their id was seen before."
)
TRAINER_SAMPLES_TRAINED = _counter("onerec_trainer_samples_trained_total", "Next-token targets trained.")
TRAINER_UNKNOWN_ITEMS = _counter("onerec_trainer_unknown_items_total", "Impressions of items that the index does not know.")
TRAINER_REQUESTS_SENT = _counter("onerec_trainer_requests_sent_total", "Rollout requests sent.")
TRAINER_REQUESTS_SKIPPED = _counter("onerec_trainer_requests_skipped_total", "Rollouts not requested: too many outstanding.")
TRAINER_REQUESTS_OUTSTANDING = _gauge("onerec_trainer_requests_outstanding_number", "Rollout requests without a group yet.")
TRAINER_GROUPS = _counter(
    "onerec_trainer_groups_total", "Rollout groups by outcome: trained, or the reason why they were dropped.", "reason"
)
TRAINER_LOSS = _gauge(
    "onerec_trainer_next_token_loss_nats", "Next-token loss of the last step, by semantic-ID level.", "level"
)
TRAINER_RL_LOSS = _gauge("onerec_trainer_rl_loss_nats", "Policy-gradient loss of the last step, by reward term.", "term")
TRAINER_STEP_SECONDS = _seconds("onerec_trainer_step_seconds", "Time of a training step.")
TRAINER_PUBLISH_SECONDS = _seconds("onerec_trainer_publish_seconds", "Time to publish a parameter version.")
TRAINER_CHECKPOINT_SECONDS = _seconds("onerec_trainer_checkpoint_seconds", "Time to commit a checkpoint.")
TRAINER_CHECKPOINTS_FAILED = _counter(
    "onerec_trainer_checkpoints_failed_total", "Checkpoints that the disk did not take; the one before stays the truth."
)
TRAINER_STEP = _gauge("onerec_trainer_step_number", "Steps done.")
TRAINER_PARAMETER_VERSION = _gauge("onerec_trainer_parameter_version_number", "Newest published parameter version.")
TRAINER_INDEX_VERSION = _gauge("onerec_trainer_index_version_number", "Item index in force.")
TRAINER_STALENESS = Histogram(
    "onerec_trainer_staleness_versions",
    "Versions between the one that a group names and the newest published.",
    buckets=(0, 1, 2, 3, 4, 8, 16),
    registry=REGISTRY,
)
TRAINER_STREAM_LAG = _gauge(
    "onerec_trainer_stream_lag_records", "Records not yet read, by topic and partition.", "topic", "partition"
)
TRAINER_DEAD_LETTERS = _counter("onerec_trainer_dead_letters_total", "Messages that did not validate, by topic.", "topic")
TRAINER_GRADIENT_NORM = _gauge(
    "onerec_trainer_gradient_norm", "Gradient norm of the last step before clipping, by parameter group.", "group"
)
TRAINER_PARITY_ERROR = _gauge(
    "onerec_trainer_parity_error_ratio", "Mean |ratio - 1| of recomputed to reported probabilities, last checked group."
)
TRAINER_LOAD_VIOLATION = _gauge(
    "onerec_trainer_load_violation_ratio", "Largest expert load of the last step over the mean, minus 1, worst mixture."
)
TRAINER_STEP_FLOPS = _gauge(
    "onerec_trainer_step_flops", "Floating-point operations of the last step's samples: products of active parameters, x3."
)
TRAINER_PEAK_FLOPS = _gauge(
    "onerec_trainer_peak_rate_flops",
    "The device's peak in matrix products per second, by where it is from.",
    "source",
)
TRAINER_MODEL_FLOPS_UTILISATION = _gauge(
    "onerec_trainer_model_flops_utilisation_ratio", "The last step's operations over what the peak allows in its time."
)
TRAINER_CLIPPED_SHARE = _gauge(
    "onerec_trainer_clipped_share_ratio", "Share of the last step's policy ratios outside 1 +- eps; ECPO and GRPO clip them."
)

ROLLOUT_GROUPS_PRODUCED = _counter(
    "onerec_rollout_groups_produced_total", "Groups sent, by outcome (ok or failure).", "outcome"
)
ROLLOUT_REQUESTS_DUPLICATE = _counter(
    "onerec_rollout_requests_duplicate_total", "Requests skipped: their id was seen before."
)
ROLLOUT_REQUESTS_RETRIED = _counter(
    "onerec_rollout_requests_retried_total", "Requests tried again after their batch was lost."
)
ROLLOUT_REQUEST_LAG = _gauge("onerec_rollout_request_lag_records", "Requests not yet read.")
ROLLOUT_ACTOR_RESTARTS = _counter("onerec_rollout_actor_restarts_total", "Actors that died or overran their time.")
ROLLOUT_DEAD_LETTERS = _counter("onerec_rollout_dead_letters_total", "Requests given up on or not valid.")
ROLLOUT_GENERATE_SECONDS = _seconds("onerec_rollout_generate_seconds", "Time to generate the candidates of a batch.")
ROLLOUT_SCORE_SECONDS = _seconds("onerec_rollout_score_seconds", "Time to have a group scored.")
ROLLOUT_LEGALITY = _gauge("onerec_rollout_legal_candidates_ratio", "Share of the last group's candidates that are items.")
ROLLOUT_PARAMETER_VERSION = _gauge("onerec_rollout_parameter_version_number", "Parameter version in use, by actor.", "actor")
ROLLOUT_REFUSED_VERSIONS = _counter(
    "onerec_rollout_refused_versions_total", "Parameter manifests refused, by reason.", "reason"
)

REWARD_REQUESTS = _counter("onerec_reward_requests_total", "Scoring requests answered, by HTTP status code.", "code")
REWARD_ITEMS_SCORED = _counter("onerec_reward_items_scored_total", "Items scored.")
REWARD_INDUSTRIAL_SHARE = _gauge("onerec_reward_industrial_share_ratio", "Share of industrial items among those scored.")
REWARD_INDUSTRIAL_ACTIVE = _gauge("onerec_reward_industrial_active_number", "1 while industrial items are dampened.")
REWARD_LEARNER_IMPRESSIONS = _counter("onerec_reward_learner_impressions_total", "Impressions learned from online.")
REWARD_LEARNER_VERSION = _gauge("onerec_reward_learner_version_number", "Newest preference model committed online.")
REWARD_LEARNER_AUC = _gauge(
    "onerec_reward_learner_auc_ratio",
    "AUC of a tower since the last version, on what it had not learned from.",
    "objective",
)
REWARD_LEARNER_STREAM_LAG = _gauge("onerec_reward_learner_lag_records", "Sessions not yet read, by partition.", "partition")
REWARD_SECONDS = _seconds("onerec_reward_request_seconds", "Time to answer a scoring request.")

RECOMMEND_REQUESTS = _counter("onerec_recommend_requests_total", "Recommend requests answered, by HTTP status code.", "code")
RECOMMEND_LISTS = _counter(
    "onerec_recommend_lists_total",
    "Lists served, by source (generated, cached or popular; all but generated for load) and arm.",
    "source",
    "arm",
)
RECOMMEND_LIST_SECONDS = _seconds(
    "onerec_recommend_list_seconds", "Time from a valid request to its list, by source and arm.", "source", "arm"
)
RECOMMEND_SECONDS = _seconds("onerec_recommend_request_seconds", "Time to answer a recommend request.")
RECOMMEND_BATCH_SECONDS = _seconds("onerec_recommend_batch_seconds", "Time to generate a batch of lists.")
RECOMMEND_BATCH_USERS = Histogram(
    "onerec_recommend_batch_users_number",
    "Requests of a batch.",
    buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32, 64),
    registry=REGISTRY,
)
RECOMMEND_UNSELECTED = _counter(
    "onerec_recommend_unselected_total", "Lists that the reward service should have put in order and did not.", "arm"
)
RECOMMEND_WAITING = _gauge("onerec_recommend_waiting_number", "Requests admitted and not yet answered.")
RECOMMEND_AGE_SECONDS = Histogram(
    "onerec_recommend_cached_age_seconds",
    "Age of a list that was served from the cache.",
    ("arm",),
    buckets=(1, 5, 10, 30, 60, 300, 600, 1800, 3600),
    registry=REGISTRY,
)
RECOMMEND_DEGRADED_SHARE = _gauge(
    "onerec_recommend_degraded_share_ratio", "Share of an arm's last lists that were cached or popular.", "arm"
)
RECOMMEND_REWARD_GAP = _gauge(
    "onerec_recommend_reward_gap_number",
    "Mean predicted reward (or by log_prob: log-probability) of an arm's generated items minus that of its cached ones.",
    "arm",
    "by",
)
RECOMMEND_PARAMETER_VERSION = _gauge("onerec_recommend_parameter_version_number", "Parameter version in use.")
RECOMMEND_INDEX_VERSION = _gauge("onerec_recommend_index_version_number", "Item index in use.")
RECOMMEND_STREAM_LAG = _gauge("onerec_recommend_stream_lag_records", "Sessions not yet read, by partition.", "partition")

TOKENIZER_ITEMS = _counter(
    "onerec_tokenizer_items_total", "Item events read, by what they brought: new, removed or known.", "outcome"
)
TOKENIZER_INDEX_VERSION = _gauge("onerec_tokenizer_index_version_number", "Newest published item index.")
TOKENIZER_INDEXED_ITEMS = _gauge("onerec_tokenizer_indexed_items_number", "Items in the newest published index.")
TOKENIZER_PUBLISH_SECONDS = _seconds("onerec_tokenizer_publish_seconds", "Time to write an index snapshot.")
TOKENIZER_RESIDUAL_RATIO = _gauge(
    "onerec_tokenizer_residual_ratio", "Mean residual norm of new items over that of the fitted catalogue."
)
TOKENIZER_EMPTY_SHARE = _gauge(
    "onerec_tokenizer_empty_share_ratio", "Share of new items whose semantic ID no item had before."
)
TOKENIZER_DRIFT_ALARM = _gauge(
    "onerec_tokenizer_drift_alarm_number", "1 while new items are described worse than the settings allow, else 0."
)
TOKENIZER_STREAM_LAG = _gauge("onerec_tokenizer_stream_lag_records", "Item events not yet read, by partition.", "partition")
TOKENIZER_DEAD_LETTERS = _counter("onerec_tokenizer_dead_letters_total", "Item events that could not be used.")


def render() -> bytes:
    """All metrics in the Prometheus text format, for servers that have their own ``/metrics`` route."""
    return generate_latest(REGISTRY)
