"""`onerec evaluate` on a tiny run folder: figures, tables, plots, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.messages import ScoreRequest
from common.policy import build_policy, load_weights
from common.session_log import SessionLog
from deploy.local.evaluating import Options, evaluation_figures
from deploy.local.evaluation_plots import PLOTS
from deploy.local.plots import save_plots
from deploy.local.run_folder import RunFolder
from deploy.local.versions import find_version
from reward_service.scorer import GoneError, Scorer
from rollout.engine import GenerationEngine
from rollout.evaluation import build_evaluation_set
from tests.deploy.cli.test_cli import is_told, onerec
from tests.deploy.local.tiny_evaluation import make_run
from tests.reward_service.tiny_world import USERS, make_index
from trainer.checkpoint import policy_blob

DOCUMENT = Path(__file__).parents[3] / "docs" / "evaluate.md"
RANKERS = ("policy", "popularity", "itemknn")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("evaluate") / "run")


@pytest.fixture(scope="module")
def figures(run: RunFolder) -> dict[str, Any]:
    return evaluation_figures(run, 9, Options(widths=[4, 8, 16]), lambda _: None)


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


def test_the_command_prints_tables_and_leaves_figures_and_plots(run: RunFolder, tmp_path: Path) -> None:
    done = onerec(
        tmp_path, "evaluate", str(run.path), "--version", "5", "--widths", "4,16", "--users", "7", "--json", "a/b.json"
    )
    assert done.returncode == 0, done.stderr
    for shown in ("version 5 · 7 users, 40 items", "best 16", "Recall@10, semantic ID", "ItemKNN Pass@16", "4 plots in"):
        assert shown in done.stdout
    assert "version 5: next-token loss of 7 users" in done.stderr
    folder = run.evaluation / "00000005"
    written = json.loads((folder / "evaluation.json").read_text())
    assert written == json.loads((tmp_path / "a" / "b.json").read_text())
    assert (written["version"], written["users"], written["options"]["widths"]) == (5, 7, [4, 16])
    assert {path.stem for path in folder.glob("*.png")} == set(PLOTS)


def test_every_ranker_has_the_same_figures_within_their_ranges(figures: dict[str, Any]) -> None:
    assert figures["users"] == USERS
    assert figures["options"] == {"beam": 40, "k": [5, 10], "widths": [4, 8, 16], "mask_seen": True}
    keys = {name: leaves(figures[name]).keys() for name in RANKERS}
    assert keys["policy"] == keys["popularity"] == keys["itemknn"]
    for name in RANKERS:
        for key, value in leaves(figures[name]).items():
            assert np.all((np.array(value) >= 0) & (np.array(value) <= 1)), (name, key)
        assert figures[name]["lorenz"][0] == 0
        assert figures[name]["lorenz"][-1] == pytest.approx(1)
        for k in ("4", "8", "16"):
            assert all(figures[name]["pass"][k][x] >= mean for x, mean in figures[name]["mean"][k].items())
    found = figures["next_token"]
    assert found["loss_sum"] == pytest.approx(sum(found["loss_per_level"])) == pytest.approx(3 * found["loss_mean"])
    assert len(found["accuracy_per_level"]) == 3


def test_a_baselines_pass_is_monotone_since_its_lists_are_nested(figures: dict[str, Any]) -> None:
    for name in ("popularity", "itemknn"):
        for metric in figures[name]["pass"]["4"]:
            values = [figures[name]["pass"][k][metric] for k in ("4", "8", "16")]
            assert values == sorted(values), (name, metric)


def test_pass_at_k_is_of_a_beam_of_k(run: RunFolder, figures: dict[str, Any]) -> None:
    """Each user's best P-Score among the four items of a beam of four, asked of the scorer one user at a time."""
    settings, index = run.settings, make_index()
    policy = build_policy(settings.policy)
    load_weights(policy, policy_blob(run.checkpoints, 9))
    engine, scorer = GenerationEngine(policy, index, 4, constrained=True), Scorer(run.reward, run.index)
    best = []
    for user in build_evaluation_set(SessionLog.open(run.log), index, settings, 2, 1).users:
        items = engine.generate([user.context])[0].item_ids.tolist()
        request = ScoreRequest(context=user.context.to_message(), item_ids=items, index_version=1)
        best.append(max(scorer.score(request).p_score))
    scorer.close()
    assert figures["policy"]["pass"]["4"]["p_score"] == pytest.approx(np.mean(best))


def test_versions_differ_and_the_same_one_repeats(run: RunFolder, figures: dict[str, Any]) -> None:
    again = evaluation_figures(run, 9, Options(widths=[4, 8, 16]), lambda _: None)
    assert again == figures
    other = evaluation_figures(run, 0, Options(widths=[4]), lambda _: None)
    assert other["next_token"]["loss_sum"] != figures["next_token"]["loss_sum"]
    assert other["itemknn"]["recall"] == figures["itemknn"]["recall"]


def test_every_key_is_documented(figures: dict[str, Any]) -> None:
    text = DOCUMENT.read_text()
    for key in leaves(figures):
        parts = ["RANKER" if part in RANKERS else "K" if part.isdecimal() else part for part in key.split(".")]
        named = ".".join([*parts[:3], "METRIC"] if parts[1:2] in (["pass"], ["mean"]) else parts)
        assert f"`{named}`" in text, named


def test_the_defaults_are_those_a_small_run_has_room_for(run: RunFolder) -> None:
    usual = evaluation_figures(run, 9, Options(beam=7, users=3), lambda _: None)
    assert usual["options"]["k"] == [5]
    assert usual["options"]["widths"] == [8]
    assert usual["users"] == 3


def test_a_plot_that_does_not_apply_any_more_is_removed(figures: dict[str, Any], tmp_path: Path) -> None:
    one = figures | {"options": figures["options"] | {"widths": [4]}}
    assert {path.stem for path in save_plots(tmp_path, PLOTS, figures)} == set(PLOTS)
    assert {path.stem for path in save_plots(tmp_path, PLOTS, one)} == set(PLOTS) - {"pass_at_k"}
    assert not (tmp_path / "pass_at_k.png").exists()


def test_versions_are_found_by_number_or_as_the_latest(run: RunFolder) -> None:
    assert [find_version(run, asked) for asked in ("latest", "0", "5", "9")] == [9, 0, 5, 9]


def test_mistakes_are_told_in_one_line(run: RunFolder, tmp_path: Path) -> None:
    folder = str(run.path)
    is_told(tmp_path, "evaluate", "absent", about="absent is not a run folder")
    is_told(tmp_path, "evaluate", folder, "--k", "5,x", about="--k must be whole numbers with commas between, got '5,x'")
    is_told(tmp_path, "evaluate", folder, "--json", str(tmp_path), about="--json must be a file, got the folder")
    is_told(tmp_path, "evaluate", folder, "--version", "7", about="does not hold version 7; versions kept: 0, 5, 9")
    assert not (run.evaluation / "00000007").exists()


def test_a_version_that_is_no_number_is_an_error(run: RunFolder) -> None:
    with pytest.raises(ValueError, match="--version must be a number or latest, got 'new'"):
        find_version(run, "new")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(cuts=[5, 50]), r"--k must be from 1 to 40 \(the beam\), got 50"),
        (Options(cuts=[0]), "--k must be from 1 to 40"),
        (Options(beam=3, cuts=[5]), r"--k must be from 1 to 3 \(the beam\), got 5"),
        (Options(widths=[17]), r"--widths must be from 1 to 16 \(the semantic IDs in use\), got 17"),
    ],
)
def test_an_unknown_k_is_an_error_with_its_range(run: RunFolder, options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation_figures(run, 9, options, lambda _: None)


def test_a_part_that_is_missing_is_named(run: RunFolder, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_bytes(run.settings_file.read_bytes())
    bare = RunFolder.open(tmp_path)
    with pytest.raises(ValueError, match="holds no weights: neither a checkpoint nor a pre-trained policy"):
        find_version(bare, "latest")
    for part in ("log", "index", "pretrained"):
        (tmp_path / part).symlink_to(run.path / part)
    with pytest.raises(ValueError, match="holds no committed preference model"):
        evaluation_figures(bare, 0, Options(), lambda _: None)


def test_an_index_that_a_running_run_removes_meanwhile_is_told(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise GoneError("index_version 1 is not held, only [4, 5]")

    monkeypatch.setattr(Scorer, "score", gone)
    with pytest.raises(ValueError, match=r"newer item indexes meanwhile: index_version 1 is not held.*once it has ended"):
        evaluation_figures(run, 9, Options(widths=[4]), lambda _: None)
