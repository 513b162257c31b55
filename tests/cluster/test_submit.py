"""submit and resume: what is refused before anything is created, what is created, and that it is created once."""

import json

import pytest
import yaml

from configs.load import load
from tests.cluster.conftest import DIGEST, Site
from tests.golden.__main__ import CONFIGS

pytestmark = pytest.mark.cluster


def test_a_dry_run_prints_each_job_s_manifest_without_any_cluster(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert site("submit", "--dry-run", "cluster.nodes=2", "data.splits.folds={count: 2}") == 0
    out = capsys.readouterr().out
    assert "# steps: prepare, train and evaluate 2 folds, 1 at a time, collect" in out
    assert "# volume: claim shared at /mnt/runs" in out
    jobs = list(yaml.safe_load_all(out))
    assert [job["metadata"]["labels"]["trainworks.dev/stage"] for job in jobs] == ["train", "evaluate"] * 2
    assert {job["metadata"]["labels"]["trainworks.dev/fold"] for job in jobs} == {"0-0", "0-1"}
    assert not site.kfp.calls


def test_a_dry_run_says_that_a_tag_would_be_refused(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site("submit", "--dry-run", "cluster.image=trainworks:0.1.0") == 2
    told = capsys.readouterr()
    assert "kind: PyTorchJob" in told.out
    assert "@sha256:" in told.err


def test_a_submitted_run_holds_its_pipeline_and_short_parameters(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = site.submitted("--name", "first")
    run = site.kfp.runs[identity]
    assert f"submitted first: pipeline run {identity}" in capsys.readouterr().out
    assert run["display_name"] == "first"
    assert run["runtime_config"]["parameters"] == {"folder": "first"}
    tasks = run["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert set(tasks) == {"prepare", "train", "evaluate"}
    assert "kubernetes" in run["pipeline_spec"]["platform_spec"]["platforms"]
    (experiment,) = site.kfp.experiments.values()
    assert (experiment["display_name"], experiment["namespace"]) == ("trainworks", "trainworks")


def test_no_parameter_that_is_sent_comes_near_kfp_s_limit(site: Site) -> None:
    run = site.kfp.runs[site.submitted()]
    assert len(json.dumps(run["runtime_config"]["parameters"])) < 1000
    defaults = run["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    assert len(json.dumps({name: each["defaultValue"] for name, each in defaults.items()})) < 10_000


def test_all_that_stands_in_the_way_is_told_at_once_and_nothing_is_created(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = ["image: it is a tag; name it by digest", "queue: there is no queue q; ask for one"]
    monkeypatch.setattr("pipelines.cluster.submit.preflight", lambda run, api: problems)
    site.kfp.multi_user = False
    assert site("submit") == 2
    told = capsys.readouterr().err
    assert "nothing was created; there are 3 problems" in told
    assert all(problem in told for problem in problems)
    assert "cluster.namespace=trainworks, but Kubeflow Pipelines runs every step in kubeflow" in told
    assert not site.kfp.runs
    assert not site.kfp.experiments


def test_a_run_of_the_same_name_that_goes_on_is_not_doubled(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    identity = site.submitted()
    assert site("submit") == 2
    assert identity in capsys.readouterr().err
    assert len(site.kfp.runs) == 1
    assert site("submit", "--name", "other") == 0
    assert site("submit", "--again") == 0
    assert len(site.kfp.runs) == 3


def test_a_run_that_has_ended_may_be_submitted_again(site: Site) -> None:
    site.kfp.set_state(site.submitted(), "FAILED")
    assert site("submit") == 0


def test_a_lost_answer_makes_no_second_run(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.submitted("--name", "first")  # the experiment is there
    site.kfp.lose_answers = 1
    identity = site.submitted("--name", "second")
    assert len(site.kfp.runs) == 2
    assert identity in capsys.readouterr().out


def test_without_a_cluster_it_is_refused(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    assert site("submit") == 2
    assert "no kubeconfig" in capsys.readouterr().err


def test_a_name_that_kubernetes_would_not_carry_is_refused(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site("submit", "--name", "a/b") == 2
    assert "--name 'a/b' must be" in capsys.readouterr().err


def test_no_value_of_a_secret_can_be_in_what_is_submitted(site: Site) -> None:
    identity = site.submitted("cluster.secrets={WANDB_API_KEY: {name: wandb, key: token}}")
    platform = json.dumps(site.kfp.runs[identity]["pipeline_spec"]["platform_spec"])
    assert '"envVar": "WANDB_API_KEY"' in platform
    assert '"secretKey": "token"' in platform


def test_on_a_claim_resuming_begins_a_new_run_in_the_same_folder(site: Site) -> None:
    first = site.submitted()
    site.kfp.set_state(first, "FAILED")
    assert site("resume") == 0
    assert len(site.kfp.runs) == 2
    assert list(site.kfp.runs.values())[-1]["runtime_config"]["parameters"] == {"folder": "demo-lm"}


def test_on_a_volume_of_kfp_resuming_tries_the_same_run_again(site: Site) -> None:
    identity = site.submitted("cluster.workspace={claim: null}")
    site.kfp.set_state(identity, "FAILED")
    assert site("resume", "cluster.workspace={claim: null}") == 0
    assert list(site.kfp.runs) == [identity]
    assert ("POST", f"/runs/{identity}:retry") in site.kfp.calls


def test_a_run_of_another_name_is_not_resumed_as_this_one(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    identity = site.submitted("--name", "other")
    site.kfp.set_state(identity, "FAILED")
    assert site("resume", "--run", identity) == 2
    assert "is one of other, not of demo-lm; say --name other" in capsys.readouterr().err
    assert len(site.kfp.runs) == 1


@pytest.mark.parametrize(("state", "says"), [("RUNNING", "is running"), ("SUCCEEDED", "has succeeded")])
def test_what_goes_on_or_is_done_is_not_resumed(
    site: Site, state: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site.kfp.set_state(site.submitted(), state)
    assert site("resume") == 2
    assert says in capsys.readouterr().err


def test_the_image_of_the_overlay_is_the_pipeline_s(site: Site) -> None:
    run = load([str(CONFIGS / "demo-lm.yaml"), str(site.overlay)])
    assert run.cluster.image == DIGEST
