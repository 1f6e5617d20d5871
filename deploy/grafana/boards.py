"""The four dashboards: the loop as a whole, the trainer, rollout and reward, what users get."""

from __future__ import annotations

from typing import Literal

from deploy.grafana.panel import Dashboard, Panel, Unit

RATE = "$__rate_interval"


def _stat(title: str, unit: Unit, query: str, about: str = "") -> Panel:
    return Panel(title, unit, {query: ""}, about, "stat")


def _rate(metric: str, by: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}[{RATE}]))"


def _mean(metric: str) -> str:
    """Of a histogram or summary, over the time of a point."""
    return f"{_rate(metric + '_sum')} / {_rate(metric + '_count')}"


def _quantile(metric: str, quantile: Literal["0.5", "0.95", "0.99"], by: str = "") -> str:
    grouped = f"{by}, le" if by else "le"
    return f"histogram_quantile({quantile}, {_rate(metric + '_bucket', grouped)})"


def _times(metric: str, by: str = "") -> dict[str, str]:
    """Median and tail of a histogram."""
    name = f"{{{{{by}}}}} " if by else ""
    return {_quantile(metric, "0.5", by): f"{name}median", _quantile(metric, "0.99", by): f"{name}99 %"}


LEGALITY = Panel(
    "Legality of groups",
    "percentunit",
    {_mean("onerec_trainer_group_legal_ratio"): "legal candidates"},
    "Share of the free search's candidates that are items. The alert fires at a tenth less than over the last day.",
)
REWARD = Panel("Mean reward of groups", "short", {_mean("onerec_trainer_group_reward_number"): "reward"})
GROUPS = Panel(
    "Groups by outcome",
    "cps",
    {_rate("onerec_trainer_groups_total", "reason"): "{{reason}}"},
    "Trained, or the reason why they were dropped.",
)
LAG = Panel(
    "Lag of the trainer",
    "short",
    {"sum by (topic, partition) (onerec_trainer_stream_lag_records)": "{{topic}} {{partition}}"},
    "Sessions in the log that are not consumed yet.",
)
DEAD_LETTERS = Panel(
    "Dead letters",
    "cps",
    {
        _rate("onerec_trainer_dead_letters_total", "topic"): "trainer {{topic}}",
        _rate("onerec_rollout_dead_letters_total"): "fleet",
        _rate("onerec_tokenizer_dead_letters_total"): "tokenizer",
    },
    "`onerec tail dead-letters` shows the reasons.",
)
VERSIONS = Panel(
    "Parameter versions",
    "none",
    {
        "max(onerec_trainer_parameter_version_number)": "published",
        "max by (actor) (onerec_rollout_parameter_version_number)": "{{actor}}",
        "max by (instance) (onerec_recommend_parameter_version_number)": "recommend {{instance}}",
        "max(onerec_trainer_checkpoint_step_number)": "committed",
    },
    "A version is the step of the checkpoint that it was committed with.",
)
LOSS = Panel(
    "Next-token loss by level",
    "suffix: nats",
    {"avg by (level) (onerec_trainer_next_token_loss_nats)": "level {{level}}"},
    "Of the last step.",
)
STALENESS = Panel(
    "Staleness of groups",
    "none",
    {
        _mean("onerec_trainer_staleness_versions"): "mean",
        _quantile("onerec_trainer_staleness_versions", "0.99"): "99 %",
    },
    "Versions between the one that a group names and the newest published.",
)
AGE = Panel("Age of the newest checkpoint", "s", {"time() - max(onerec_trainer_checkpoint_timestamp_seconds)": "age"})

LOOP = Dashboard(
    "loop",
    "OneRec: loop overview",
    [
        _stat("Step", "none", "max(onerec_trainer_step_number)"),
        _stat("Published version", "none", "max(onerec_trainer_parameter_version_number)"),
        _stat("Sessions consumed", "cps", _rate("onerec_trainer_sessions_consumed_total")),
        _stat("Lag", "short", "sum(onerec_trainer_stream_lag_records)"),
        _stat("Legality", "percentunit", _mean("onerec_trainer_group_legal_ratio")),
        _stat("Lists served", "reqps", _rate("onerec_recommend_lists_total")),
        Panel(
            "Sessions",
            "cps",
            {
                _rate("onerec_trainer_sessions_consumed_total"): "consumed",
                _rate("onerec_trainer_sessions_kept_total"): "kept by the filter",
                _rate("onerec_trainer_sessions_duplicate_total"): "duplicates",
            },
        ),
        LAG,
        LOSS,
        GROUPS,
        LEGALITY,
        REWARD,
        VERSIONS,
        STALENESS,
        AGE,
        DEAD_LETTERS,
        Panel(
            "Requests for rollouts",
            "short",
            {
                "sum(onerec_trainer_requests_outstanding_number)": "outstanding",
                "sum(onerec_rollout_request_lag_records)": "not yet read by the fleet",
                "sum(onerec_rollout_queued_requests_number)": "waiting for an actor",
            },
        ),
        Panel("Workers that answer", "none", {"min by (job) (up)": "{{job}}"}, "1 while Prometheus gets an answer."),
    ],
)

TRAINER = Dashboard(
    "trainer",
    "OneRec: trainer",
    [
        LOSS,
        Panel("Reinforcement loss by term", "suffix: nats", {"avg by (term) (onerec_trainer_rl_loss_nats)": "{{term}}"}),
        Panel("Gradient norm before clipping", "short", {"max by (group) (onerec_trainer_gradient_norm)": "{{group}}"}),
        Panel("Time of a step", "s", _times("onerec_trainer_step_seconds")),
        Panel(
            "Waiting",
            "percentunit",
            {_rate("onerec_trainer_waited_seconds_total", "reason"): "for {{reason}}"},
            "Share of the time between steps, summed over ranks. Hardly any for sessions: the trainer is the bottleneck.",
        ),
        Panel(
            "Targets and requests",
            "cps",
            {
                _rate("onerec_trainer_samples_trained_total"): "targets trained",
                _rate("onerec_trainer_requests_sent_total"): "rollouts requested",
                _rate("onerec_trainer_requests_skipped_total"): "not requested: too many outstanding",
                _rate("onerec_trainer_unknown_items_total"): "impressions of unknown items",
            },
        ),
        Panel(
            "Kept share of sessions",
            "percentunit",
            {f"{_rate('onerec_trainer_sessions_kept_total')} / {_rate('onerec_trainer_sessions_consumed_total')}": "kept"},
            "The filter keeps the better half by play time.",
        ),
        Panel("Filter's median play time", "s", {"avg(onerec_trainer_filter_median_seconds)": "median"}),
        Panel(
            "Policy ratios",
            "short",
            {
                "avg(onerec_trainer_mean_policy_ratio)": "mean ratio, as trained",
                "avg(onerec_trainer_clipped_share_ratio)": "share outside 1 ± eps",
            },
        ),
        Panel(
            "Mean |ratio - 1| of recomputed groups",
            "short",
            {"max(onerec_trainer_parity_error_ratio)": "last checked group"},
            "Above 0.001 a group is dropped: trainer and rollout do not compute the same.",
        ),
        LAG,
        GROUPS,
        Panel(
            "Checkpoints and versions",
            "s",
            {
                _quantile("onerec_trainer_checkpoint_seconds", "0.99"): "commit, 99 %",
                _quantile("onerec_trainer_publish_seconds", "0.99"): "publish, 99 %",
            },
        ),
        AGE,
        Panel(
            "Disk",
            "bytes",
            {
                "min(onerec_trainer_disk_free_bytes)": "free",
                "max(onerec_trainer_checkpoint_bytes)": "a checkpoint",
            },
        ),
        Panel("Failed checkpoints", "cps", {_rate("onerec_trainer_checkpoints_failed_total"): "failed"}),
        Panel(
            "Use of the device",
            "percentunit",
            {"avg(onerec_trainer_model_flops_utilisation_ratio)": "of its peak in matrix products"},
        ),
        Panel(
            "Operations",
            "flops",
            {
                "sum(onerec_trainer_step_flops)": "of the last step",
                "sum by (source) (onerec_trainer_peak_rate_flops)": "peak per second, {{source}}",
            },
        ),
        Panel(
            "Expert load over the mean",
            "percentunit",
            {"max(onerec_trainer_load_violation_ratio)": "largest"},
            "Empty for policies without mixtures of experts.",
        ),
        Panel("Item index in force", "none", {"max(onerec_trainer_index_version_number)": "version"}),
        Panel("Memory", "bytes", {'sum by (instance) (process_resident_memory_bytes{job=~".*trainer.*"})': "{{instance}}"}),
    ],
)

ROLLOUT = Dashboard(
    "rollout-reward",
    "OneRec: rollout and reward",
    [
        Panel("Groups produced", "cps", {_rate("onerec_rollout_groups_produced_total", "outcome"): "{{outcome}}"}),
        Panel("Actors by state", "none", {"sum by (state) (onerec_rollout_actors_number)": "{{state}}"}),
        Panel(
            "Requests waiting",
            "short",
            {
                "sum(onerec_rollout_request_lag_records)": "not yet read",
                "sum(onerec_rollout_queued_requests_number)": "waiting for an actor",
            },
        ),
        Panel("Time to generate a batch", "s", _times("onerec_rollout_generate_seconds")),
        Panel("Time to have a group scored", "s", _times("onerec_rollout_score_seconds")),
        Panel(
            "Lost work",
            "cps",
            {
                _rate("onerec_rollout_actor_restarts_total"): "actors restarted",
                _rate("onerec_rollout_requests_retried_total"): "requests tried again",
                _rate("onerec_rollout_requests_duplicate_total"): "requests seen before",
                _rate("onerec_rollout_dead_letters_total"): "given up",
            },
        ),
        LEGALITY,
        Panel("Legality as the fleet sees it", "percentunit", {"avg(onerec_rollout_legal_candidates_ratio)": "last group"}),
        REWARD,
        Panel(
            "Versions of the actors",
            "none",
            {
                "max by (actor) (onerec_rollout_parameter_version_number)": "{{actor}}",
                "max(onerec_trainer_parameter_version_number)": "published",
            },
        ),
        Panel("Versions refused", "cps", {_rate("onerec_rollout_refused_versions_total", "reason"): "{{reason}}"}),
        Panel("Scoring requests by status", "reqps", {_rate("onerec_reward_requests_total", "code"): "{{code}}"}),
        Panel("Time of a scoring request", "s", _times("onerec_reward_request_seconds")),
        Panel(
            "Items scored, requests in flight",
            "short",
            {
                _rate("onerec_reward_items_scored_total"): "items per second",
                "sum(onerec_reward_in_flight_number)": "requests in flight",
            },
        ),
        Panel(
            "Preference model versions",
            "none",
            {
                "max by (instance) (onerec_reward_model_version_number)": "answers {{instance}}",
                "max(onerec_reward_learner_version_number)": "committed by the learner",
            },
        ),
        Panel(
            "AUC of the towers",
            "percentunit",
            {"avg by (objective) (onerec_reward_learner_auc_ratio)": "{{objective}}"},
            "On sessions that the model had not learned from. 50 % is chance.",
        ),
        Panel(
            "Learner",
            "short",
            {
                _rate("onerec_reward_learner_impressions_total"): "impressions per second",
                "sum(onerec_reward_learner_lag_records)": "lag",
            },
        ),
        Panel(
            "Industrial items",
            "percentunit",
            {
                "avg(onerec_reward_industrial_share_ratio)": "share of what is scored",
                "max(onerec_reward_industrial_active_number)": "dampened",
            },
        ),
    ],
)

RECOMMEND = Dashboard(
    "recommend",
    "OneRec: recommend endpoint and items",
    [
        Panel("Requests by status", "reqps", {_rate("onerec_recommend_requests_total", "code"): "{{code}}"}),
        Panel(
            "Time of a request",
            "s",
            {
                _quantile("onerec_recommend_request_seconds", "0.5"): "median",
                _quantile("onerec_recommend_request_seconds", "0.95"): "95 %",
                _quantile("onerec_recommend_request_seconds", "0.99"): "99 %",
            },
        ),
        Panel(
            "Time to a list by source",
            "s",
            {_quantile("onerec_recommend_list_seconds", "0.99", "source"): "{{source}} 99 %"},
        ),
        Panel("Lists by source", "reqps", {_rate("onerec_recommend_lists_total", "source"): "{{source}}"}),
        Panel("Lists by arm", "reqps", {_rate("onerec_recommend_lists_total", "arm"): "{{arm}}"}),
        Panel(
            "Degraded share by arm",
            "percentunit",
            {"max by (arm) (onerec_recommend_degraded_share_ratio)": "{{arm}}"},
            "Lists that were cached or popular, of the last hundred or so.",
        ),
        Panel(
            "What degraded lists cost",
            "short",
            {"avg by (arm, by) (onerec_recommend_reward_gap_number)": "{{arm}} by {{by}}"},
            "Mean worth of an item in generated lists minus that in cached ones.",
        ),
        Panel("Age of cached lists", "s", _times("onerec_recommend_cached_age_seconds")),
        Panel(
            "Waiting, and size of batches",
            "short",
            {
                "sum(onerec_recommend_waiting_number)": "requests waiting",
                _mean("onerec_recommend_batch_users_number"): "requests of a batch",
            },
        ),
        Panel("Time to generate a batch", "s", _times("onerec_recommend_batch_seconds")),
        Panel(
            "Lists not put in order by the reward service",
            "reqps",
            {_rate("onerec_recommend_unselected_total", "arm"): "{{arm}}"},
        ),
        Panel(
            "Lag of the endpoint's histories",
            "short",
            {"sum by (instance) (onerec_recommend_stream_lag_records)": "{{instance}}"},
        ),
        Panel(
            "Item index versions",
            "none",
            {
                "max(onerec_tokenizer_index_version_number)": "published",
                "max(onerec_trainer_index_version_number)": "trainer",
                "max by (instance) (onerec_reward_index_version_number)": "reward {{instance}}",
                "max by (instance) (onerec_recommend_index_version_number)": "recommend {{instance}}",
            },
        ),
        Panel("Items", "short", {"max(onerec_tokenizer_indexed_items_number)": "in the newest index"}),
        Panel("Item events", "cps", {_rate("onerec_tokenizer_items_total", "outcome"): "{{outcome}}"}),
        Panel(
            "New items beside the catalogue",
            "short",
            {
                "max(onerec_tokenizer_residual_ratio)": "residual over the catalogue's",
                "max(onerec_tokenizer_empty_share_ratio)": "share with a semantic ID of their own",
                "max(onerec_tokenizer_drift_alarm_number)": "alarm",
            },
        ),
        Panel("Time to write an index snapshot", "s", _times("onerec_tokenizer_publish_seconds")),
        Panel(
            "Lag of the tokenizer", "short", {"sum by (partition) (onerec_tokenizer_stream_lag_records)": "{{partition}}"}
        ),
    ],
)

DASHBOARDS = (LOOP, TRAINER, ROLLOUT, RECOMMEND)
