"""Every metric of every worker, in one place (`common.metric_catalogue` says how one is declared).

docs/metrics.md is made from it. Workers import the constants below; `common.probes` serves them.
"""

from __future__ import annotations

from prometheus_client import ProcessCollector, generate_latest

from common.metric_catalogue import REGISTRY, counter, gauge, histogram, summary

ProcessCollector(registry=REGISTRY)

TRAINER_SESSIONS_CONSUMED = counter("onerec_trainer_sessions_consumed_total", "Sessions read from the stream.")
TRAINER_SESSIONS_KEPT = counter("onerec_trainer_sessions_kept_total", "Sessions that the filter let through to training.")
TRAINER_SESSIONS_DUPLICATE = counter(
    "onerec_trainer_sessions_duplicate_total", "Sessions dropped: their id was seen before."
)
TRAINER_FILTER_MEDIAN = gauge(
    "onerec_trainer_filter_median_seconds", "Play time above which the filter keeps a session: the median of those before."
)
TRAINER_SAMPLES_TRAINED = counter("onerec_trainer_samples_trained_total", "Next-token targets trained.")
TRAINER_UNKNOWN_ITEMS = counter("onerec_trainer_unknown_items_total", "Impressions of items that the index does not know.")
TRAINER_REQUESTS_SENT = counter("onerec_trainer_requests_sent_total", "Rollout requests sent.")
TRAINER_REQUESTS_SKIPPED = counter("onerec_trainer_requests_skipped_total", "Rollouts not requested: too many outstanding.")
TRAINER_REQUESTS_OUTSTANDING = gauge("onerec_trainer_requests_outstanding_number", "Rollout requests without a group yet.")
TRAINER_GROUPS = counter(
    "onerec_trainer_groups_total", "Rollout groups by outcome: trained, or the reason why they were dropped.", "reason"
)
TRAINER_GROUP_LEGALITY = summary("onerec_trainer_group_legal_ratio", "Share of a settled group's candidates that are items.")
TRAINER_GROUP_REWARD = summary(
    "onerec_trainer_group_reward_number", "Mean reward of a settled group's legal candidates (the P-Score by default)."
)
TRAINER_LOSS = gauge(
    "onerec_trainer_next_token_loss_nats", "Next-token loss of the last step, by semantic-ID level.", "level"
)
TRAINER_RL_LOSS = gauge("onerec_trainer_rl_loss_nats", "Policy-gradient loss of the last step, by reward term.", "term")
TRAINER_STEP_SECONDS = histogram("onerec_trainer_step_seconds", "Time of a training step.")
TRAINER_WAITED = counter(
    "onerec_trainer_waited_seconds_total",
    "Time waited, by what for: sessions, checkpoint (the one before was not on disk yet), or a step's features.",
    "reason",
)
TRAINER_PUBLISH_SECONDS = histogram("onerec_trainer_publish_seconds", "Time to publish a parameter version.")
TRAINER_CHECKPOINT_SECONDS = histogram("onerec_trainer_checkpoint_seconds", "Time to commit a checkpoint.")
TRAINER_CHECKPOINTS_FAILED = counter(
    "onerec_trainer_checkpoints_failed_total", "Checkpoints that the disk did not take; the one before stays the truth."
)
TRAINER_CHECKPOINT_STEP = gauge("onerec_trainer_checkpoint_step_number", "Step of the newest committed checkpoint.")
TRAINER_CHECKPOINT_TIMESTAMP = gauge(
    "onerec_trainer_checkpoint_timestamp_seconds", "When the newest checkpoint was committed, in Unix time."
)
TRAINER_CHECKPOINT_BYTES = gauge("onerec_trainer_checkpoint_bytes", "Size of the newest committed checkpoint.")
TRAINER_DISK_FREE = gauge("onerec_trainer_disk_free_bytes", "Space left where the run folder is.")
TRAINER_STEP = gauge("onerec_trainer_step_number", "Steps done.")
TRAINER_PARAMETER_VERSION = gauge("onerec_trainer_parameter_version_number", "Newest published parameter version.")
TRAINER_INDEX_VERSION = gauge("onerec_trainer_index_version_number", "Item index in force.")
TRAINER_STALENESS = histogram(
    "onerec_trainer_staleness_versions",
    "Versions between the one that a group names and the newest published.",
    buckets=(0, 1, 2, 3, 4, 8, 16),
)
TRAINER_STREAM_LAG = gauge(
    "onerec_trainer_stream_lag_records", "Records not yet read, by topic and partition.", "topic", "partition"
)
TRAINER_DEAD_LETTERS = counter("onerec_trainer_dead_letters_total", "Messages that did not validate, by topic.", "topic")
TRAINER_GRADIENT_NORM = gauge(
    "onerec_trainer_gradient_norm", "Gradient norm of the last step before clipping, by parameter group.", "group"
)
TRAINER_PARITY_ERROR = gauge(
    "onerec_trainer_parity_error_ratio", "Mean |ratio - 1| of recomputed to reported probabilities, last checked group."
)
TRAINER_LOAD_VIOLATION = gauge(
    "onerec_trainer_load_violation_ratio", "Largest expert load of the last step over the mean, minus 1, worst mixture."
)
TRAINER_STEP_FLOPS = gauge(
    "onerec_trainer_step_flops", "Floating-point operations of the last step's samples: products of active parameters, x3."
)
TRAINER_PEAK_FLOPS = gauge(
    "onerec_trainer_peak_rate_flops",
    "The device's peak in matrix products per second, by where it is from.",
    "source",
)
TRAINER_MODEL_FLOPS_UTILISATION = gauge(
    "onerec_trainer_model_flops_utilisation_ratio", "The last step's operations over what the peak allows in its time."
)
TRAINER_CLIPPED_SHARE = gauge(
    "onerec_trainer_clipped_share_ratio", "Share of the last step's policy ratios outside 1 +- eps; ECPO and GRPO clip them."
)
TRAINER_POLICY_RATIO = gauge(
    "onerec_trainer_mean_policy_ratio", "Mean ratio of the last step's policy to the one that generated, as it was trained."
)

ROLLOUT_GROUPS_PRODUCED = counter(
    "onerec_rollout_groups_produced_total", "Groups sent, by outcome (ok or failure).", "outcome"
)
ROLLOUT_REQUESTS_DUPLICATE = counter(
    "onerec_rollout_requests_duplicate_total", "Requests skipped: their id was seen before."
)
ROLLOUT_REQUESTS_RETRIED = counter(
    "onerec_rollout_requests_retried_total", "Requests tried again after their batch was lost."
)
ROLLOUT_REQUEST_LAG = gauge("onerec_rollout_request_lag_records", "Requests not yet read.")
ROLLOUT_QUEUED = gauge("onerec_rollout_queued_requests_number", "Requests read and not yet handed to an actor.")
ROLLOUT_ACTORS = gauge("onerec_rollout_actors_number", "Actors by state: starting, idle or busy.", "state")
ROLLOUT_ACTOR_RESTARTS = counter("onerec_rollout_actor_restarts_total", "Actors that died or overran their time.")
ROLLOUT_DEAD_LETTERS = counter("onerec_rollout_dead_letters_total", "Requests given up on or not valid.")
ROLLOUT_GENERATE_SECONDS = histogram("onerec_rollout_generate_seconds", "Time to generate the candidates of a batch.")
ROLLOUT_SCORE_SECONDS = histogram("onerec_rollout_score_seconds", "Time to have a group scored.")
ROLLOUT_LEGALITY = gauge("onerec_rollout_legal_candidates_ratio", "Share of the last group's candidates that are items.")
ROLLOUT_PARAMETER_VERSION = gauge("onerec_rollout_parameter_version_number", "Parameter version in use, by actor.", "actor")
ROLLOUT_REFUSED_VERSIONS = counter(
    "onerec_rollout_refused_versions_total", "Parameter manifests refused, by reason.", "reason"
)

REWARD_REQUESTS = counter("onerec_reward_requests_total", "Scoring requests answered, by HTTP status code.", "code")
REWARD_ITEMS_SCORED = counter("onerec_reward_items_scored_total", "Items scored.")
REWARD_IN_FLIGHT = gauge("onerec_reward_in_flight_number", "Scoring requests being answered.")
REWARD_MODEL_VERSION = gauge("onerec_reward_model_version_number", "Preference model that answers.")
REWARD_INDEX_VERSION = gauge("onerec_reward_index_version_number", "Newest item index that is answered for.")
REWARD_INDUSTRIAL_SHARE = gauge("onerec_reward_industrial_share_ratio", "Share of industrial items among those scored.")
REWARD_INDUSTRIAL_ACTIVE = gauge("onerec_reward_industrial_active_number", "1 while industrial items are dampened.")
REWARD_LEARNER_IMPRESSIONS = counter("onerec_reward_learner_impressions_total", "Impressions learned from online.")
REWARD_LEARNER_VERSION = gauge("onerec_reward_learner_version_number", "Newest preference model committed online.")
REWARD_LEARNER_AUC = gauge(
    "onerec_reward_learner_auc_ratio",
    "AUC of a tower since the last version, on what it had not learned from.",
    "objective",
)
REWARD_LEARNER_STREAM_LAG = gauge("onerec_reward_learner_lag_records", "Sessions not yet read, by partition.", "partition")
REWARD_SECONDS = histogram("onerec_reward_request_seconds", "Time to answer a scoring request.")

RECOMMEND_REQUESTS = counter("onerec_recommend_requests_total", "Recommend requests answered, by HTTP status code.", "code")
RECOMMEND_LISTS = counter(
    "onerec_recommend_lists_total",
    "Lists served, by source (generated, cached or popular; all but generated for load) and arm.",
    "source",
    "arm",
)
RECOMMEND_LIST_SECONDS = histogram(
    "onerec_recommend_list_seconds", "Time from a valid request to its list, by source and arm.", "source", "arm"
)
RECOMMEND_SECONDS = histogram("onerec_recommend_request_seconds", "Time to answer a recommend request.")
RECOMMEND_BATCH_SECONDS = histogram("onerec_recommend_batch_seconds", "Time to generate a batch of lists.")
RECOMMEND_BATCH_USERS = histogram(
    "onerec_recommend_batch_users_number",
    "Requests of a batch.",
    buckets=(1, 2, 3, 4, 6, 8, 12, 16, 32, 64),
)
RECOMMEND_UNSELECTED = counter(
    "onerec_recommend_unselected_total", "Lists that the reward service should have put in order and did not.", "arm"
)
RECOMMEND_WAITING = gauge("onerec_recommend_waiting_number", "Requests admitted and not yet answered.")
RECOMMEND_AGE_SECONDS = histogram(
    "onerec_recommend_cached_age_seconds",
    "Age of a list that was served from the cache.",
    "arm",
    buckets=(1, 5, 10, 30, 60, 300, 600, 1800, 3600),
)
RECOMMEND_DEGRADED_SHARE = gauge(
    "onerec_recommend_degraded_share_ratio", "Share of an arm's last lists that were cached or popular.", "arm"
)
RECOMMEND_REWARD_GAP = gauge(
    "onerec_recommend_reward_gap_number",
    "Mean predicted reward (or by log_prob: log-probability) of an arm's generated items minus that of its cached ones.",
    "arm",
    "by",
)
RECOMMEND_PARAMETER_VERSION = gauge("onerec_recommend_parameter_version_number", "Parameter version in use.")
RECOMMEND_INDEX_VERSION = gauge("onerec_recommend_index_version_number", "Item index in use.")
RECOMMEND_STREAM_LAG = gauge("onerec_recommend_stream_lag_records", "Sessions not yet read, by partition.", "partition")

TOKENIZER_ITEMS = counter(
    "onerec_tokenizer_items_total", "Item events read, by what they brought: new, removed or known.", "outcome"
)
TOKENIZER_INDEX_VERSION = gauge("onerec_tokenizer_index_version_number", "Newest published item index.")
TOKENIZER_INDEXED_ITEMS = gauge("onerec_tokenizer_indexed_items_number", "Items in the newest published index.")
TOKENIZER_PUBLISH_SECONDS = histogram("onerec_tokenizer_publish_seconds", "Time to write an index snapshot.")
TOKENIZER_RESIDUAL_RATIO = gauge(
    "onerec_tokenizer_residual_ratio", "Mean residual norm of new items over that of the fitted catalogue."
)
TOKENIZER_EMPTY_SHARE = gauge("onerec_tokenizer_empty_share_ratio", "Share of new items whose codes no item had before.")
TOKENIZER_DRIFT_ALARM = gauge(
    "onerec_tokenizer_drift_alarm_number", "1 while new items are described worse than the settings allow, else 0."
)
TOKENIZER_STREAM_LAG = gauge("onerec_tokenizer_stream_lag_records", "Item events not yet read, by partition.", "partition")
TOKENIZER_DEAD_LETTERS = counter("onerec_tokenizer_dead_letters_total", "Item events that could not be used.")


def render() -> bytes:
    """All metrics in the Prometheus text format, for servers that have their own ``/metrics`` route."""
    return generate_latest(REGISTRY)
