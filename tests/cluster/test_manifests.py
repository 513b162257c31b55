"""The manifests of a cluster: each overlay renders, is accepted, grants little, and fits the configurations."""

import functools
import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.load import load
from configs.schema import RunConfig
from k8s.job import JOB_PODS, Job
from k8s.pods import container, pod_spec, resources
from k8s.trainjob import NODES
from tests.cluster.schemas import CRD_DIR, crd_folder
from tests.cluster.validation import problems, quantity
from tests.golden.__main__ import CONFIGS

pytestmark = pytest.mark.cluster

Manifest = dict[str, Any]
MANIFESTS = CONFIGS.parent / "k8s" / "manifests"
FILES = sorted(MANIFESTS.rglob("*.yaml"))
OVERLAYS = ("kind", "gpu", "tenants")
COMPONENTS = sorted(path.name for path in (MANIFESTS / "components").iterdir())
WORDS = ("apply", "check", "logs", "clean")
CUSTOM = ("kueue.x-k8s.io", "kubeflow.org", "trainer.kubeflow.org")
RULES = ("Role", "ClusterRole")
BINDINGS = ("RoleBinding", "ClusterRoleBinding")
CLUSTERS = {"kind": "kubeflow", "gpu": "trainworks"}
"""Overlays that a file of configs/clusters goes with, and the namespace of their runs"""

needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
needs_crds = pytest.mark.skipif(crd_folder() is None, reason=f"{CRD_DIR} does not name a folder with CRD files")
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(MANIFESTS)))


def render(folder: Path) -> list[Manifest]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


@functools.cache
def objects(overlay: str) -> list[Manifest]:
    return render(MANIFESTS / "overlays" / overlay)


@functools.cache
def base() -> list[Manifest]:
    return render(MANIFESTS / "base")


def of_kind(found: list[Manifest], *kinds: str) -> dict[str, Manifest]:
    """Objects by namespace and name, of kinds of which no two share them."""
    return {place(each): each for each in found if each["kind"] in kinds}


def place(manifest: Manifest) -> str:
    metadata = manifest["metadata"]
    return "/".join(part for part in (metadata.get("namespace"), metadata["name"]) if part)


def is_custom(manifest: Manifest) -> bool:
    return manifest["apiVersion"].split("/")[0] in CUSTOM


@needs_kubectl
@each_overlay
def test_every_object_of_a_built_in_kind_would_be_accepted(overlay: str) -> None:
    built_in = [each for each in objects(overlay) if not is_custom(each)]
    assert [(each["kind"], place(each), wrong) for each in built_in if (wrong := problems(each))] == []
    assert len(built_in) >= 15


@needs_kubectl
@needs_crds
@pytest.mark.parametrize(("overlay", "number"), [("kind", 0), ("gpu", 3), ("tenants", 5)])
def test_every_object_of_a_queue_would_be_accepted(overlay: str, number: int) -> None:
    custom = [each for each in objects(overlay) if is_custom(each)]
    assert [(each["kind"], place(each), wrong) for each in custom if (wrong := problems(each))] == []
    assert len(custom) == number


@needs_crds
def test_a_queue_in_the_words_of_another_version_is_refused() -> None:
    path = MANIFESTS / "overlays" / "tenants" / "queues" / "team-a.yaml"
    queue = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert problems(queue) == []
    queue["spec"]["cohort"] = queue["spec"].pop("cohortName")
    assert problems(queue) == ["spec.cohort: unknown field"]
    queue["apiVersion"] = "kueue.x-k8s.io/v1beta1"
    assert problems(queue) == []
    queue["spec"]["preemption"]["withinClusterQueue"] = "Lower"
    queue["spec"]["resourceGroups"][0]["flavors"][0]["resources"][0]["nominalQuota"] = "64 cores"
    assert [line.split(": ")[0] for line in problems(queue)] == [
        "spec.preemption.withinClusterQueue",
        "spec.resourceGroups[0].flavors[0].resources[0].nominalQuota",
    ]


@needs_kubectl
@each_overlay
def test_no_two_objects_are_the_same(overlay: str) -> None:
    counted = Counter((each["apiVersion"].split("/")[0], each["kind"], place(each)) for each in objects(overlay))
    assert [name for name, number in counted.items() if number > 1] == []


@needs_kubectl
@each_overlay
def test_every_object_can_be_found_by_its_label(overlay: str) -> None:
    for each in objects(overlay):
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "trainworks", place(each)


@needs_kubectl
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_can_be_added_and_is_accepted(component: str, tmp_path: Path) -> None:
    def beside(part: str) -> str:
        return os.path.relpath((MANIFESTS / part).resolve(), tmp_path.resolve())

    text = {"resources": [beside("base")], "components": [beside(f"components/{component}")]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(text), encoding="utf-8")
    found = render(tmp_path)
    assert [(each["kind"], place(each), wrong) for each in found if (wrong := problems(each))] == []
    assert [(place(each), wrong) for each in found if (wrong := grants_too_much(each))] == []
    assert found != base()


def grants_too_much(manifest: Manifest) -> list[str]:
    """Wildcards, secrets, and what would let somebody grant himself more."""
    wrong = []
    for rule in (manifest.get("rules") or []) if manifest["kind"] in RULES else []:
        names = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        wrong += [f"{name} in {rule}" for name in names if "*" in name]
        touched = {resource.split("/")[0] for resource in rule["resources"]}
        wrong += [f"{name} in {rule}" for name in touched & {"secrets", "roles", "rolebindings", "clusterroles"}]
        wrong += [f"{name} in {rule}" for name in {"bind", "escalate", "impersonate"} & set(rule["verbs"])]
        if "pods/exec" in rule["resources"]:
            wrong.append(f"pods/exec in {rule}")
    return wrong


@needs_kubectl
@each_overlay
def test_no_role_has_a_wildcard_or_secrets(overlay: str) -> None:
    found = of_kind(objects(overlay), *RULES)
    assert len(found) >= 4
    assert {name: wrong for name, each in found.items() if (wrong := grants_too_much(each))} == {}


@needs_kubectl
@each_overlay
def test_every_binding_joins_a_role_and_accounts_that_there_are(overlay: str) -> None:
    found = objects(overlay)
    roles, accounts = of_kind(found, *RULES), of_kind(found, "ServiceAccount")
    made_by_kubeflow = {"pipeline-runner", "default-editor"}
    runs = {place(each).split("/")[0] for each in accounts.values()}
    bound = Counter(account for each in of_kind(found, *BINDINGS).values() for account in subjects(each))
    for each in of_kind(found, *BINDINGS).values():
        role = each["roleRef"]["name"]
        assert (role if each["kind"] == "ClusterRoleBinding" else f"{each['metadata']['namespace']}/{role}") in roles
        for account in subjects(each):
            namespace, name = account.split("/")
            assert account in accounts or (name in made_by_kubeflow and namespace in runs), account
    assert not [account for account in bound if account.endswith("/trainworks-job")], "the job's pods have no rights"


def subjects(binding: Manifest) -> list[str]:
    return [f"{each['namespace']}/{each['name']}" for each in binding["subjects"]]


@needs_kubectl
@each_overlay
def test_both_accounts_of_pipeline_steps_may_launch(overlay: str) -> None:
    bindings = [each for name, each in of_kind(objects(overlay), "RoleBinding").items() if name.endswith("-launcher")]
    assert bindings
    for each in bindings:
        home = each["metadata"]["namespace"]
        assert subjects(each) == [f"{home}/pipeline-runner", f"{home}/default-editor"]


@needs_kubectl
@each_overlay
def test_accounts_mount_no_token_by_themselves(overlay: str) -> None:
    for each in of_kind(objects(overlay), "ServiceAccount").values():
        assert each["automountServiceAccountToken"] is False


@needs_kubectl
@each_overlay
def test_network_rules_and_evictions_are_about_our_pods_alone(overlay: str) -> None:
    policies = of_kind(objects(overlay), "NetworkPolicy")
    selectors = [each["spec"]["podSelector"]["matchLabels"] for each in policies.values()]
    assert all(each["app.kubernetes.io/name"] == "trainworks" for each in selectors)
    denies = [each["spec"] for name, each in policies.items() if name.endswith("-deny")]
    for spec in denies:
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert not {"ingress", "egress"} & set(spec)
    for spec in (each["spec"] for name, each in policies.items() if name.endswith("-job")):
        assert spec["podSelector"]["matchLabels"] == JOB_PODS
        assert spec["ingress"] == [{"from": [{"podSelector": {"matchLabels": JOB_PODS}}]}]
    for each in of_kind(objects(overlay), "PodDisruptionBudget").values():
        assert each["spec"]["selector"]["matchLabels"] == JOB_PODS
    namespaces = {each["metadata"]["namespace"] for each in of_kind(objects(overlay), "ServiceAccount").values()}
    assert len(denies) == len(namespaces)


@needs_kubectl
@each_overlay
def test_only_steps_reach_private_addresses(overlay: str) -> None:
    """Where the Kubernetes API is."""
    found = {name: wide(each) for name, each in of_kind(objects(overlay), "NetworkPolicy").items()}
    assert {name.split("/")[1] for name, is_wide in found.items() if is_wide} == {"trainworks-steps"}


def wide(policy: Manifest) -> bool:
    """Whether it admits every address."""
    peers = [peer for rule in policy["spec"].get("egress", []) for peer in rule["to"]]
    return any("ipBlock" in peer and "except" not in peer["ipBlock"] for peer in peers)


@needs_kubectl
def test_a_namespace_of_kubeflow_s_is_left_alone() -> None:
    assert of_kind(objects("kind"), "Namespace") == {}
    for overlay in ("gpu", "tenants"):
        for each in of_kind(objects(overlay), "Namespace").values():
            assert each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "baseline"


def configured(cluster: str) -> RunConfig:
    return load([str(CONFIGS / "shakespeare.yaml"), str(CONFIGS / "clusters" / f"{cluster}.yaml")])


@needs_kubectl
@pytest.mark.parametrize("overlay", CLUSTERS)
def test_a_configuration_names_what_its_overlay_makes(overlay: str) -> None:
    cluster, found = configured(overlay).cluster, objects(overlay)
    home = cluster.namespace
    assert home == CLUSTERS[overlay]
    assert f"{home}/{cluster.service_account}" in of_kind(found, "ServiceAccount")
    claim = of_kind(found, "PersistentVolumeClaim")[f"{home}/{cluster.workspace.claim}"]
    assert ("ReadWriteMany" in claim["spec"]["accessModes"]) or cluster.nodes == 1
    queues = of_kind(found, "LocalQueue")
    assert set(queues) == ({f"{home}/{cluster.queue}"} if cluster.queue else set())
    priorities = of_kind(found, "PriorityClass")
    assert cluster.priority in priorities if cluster.priority else not priorities


def test_a_configuration_for_a_cluster_leaves_its_image_to_the_command_line() -> None:
    for overlay in CLUSTERS:
        text = (CONFIGS / "clusters" / f"{overlay}.yaml").read_text(encoding="utf-8")
        assert "image" not in yaml.safe_load(text)["cluster"]
        assert "cluster.image=" in text


@needs_kubectl
def test_the_quota_admits_a_job_of_the_configuration() -> None:
    run = configured("gpu")
    (queue,) = of_kind(objects("gpu"), "ClusterQueue").values()
    (group,) = queue["spec"]["resourceGroups"]
    ((flavor,), asked) = group["flavors"], resources(run.cluster.node)["requests"]
    quota = {each["name"]: quantity(each["nominalQuota"]) for each in flavor["resources"]}
    assert set(quota) == set(group["coveredResources"]) == set(asked)
    for name, amount in asked.items():
        one, limit = quantity(amount), quota[name]
        assert one is not None
        assert limit is not None
        assert one * run.cluster.nodes <= limit, name


@needs_kubectl
@pytest.mark.parametrize("overlay", ["gpu", "tenants"])
def test_every_door_leads_to_a_queue_that_admits_its_namespace(overlay: str) -> None:
    found = objects(overlay)
    queues, flavors = of_kind(found, "ClusterQueue"), of_kind(found, "ResourceFlavor")
    led = []
    for each in of_kind(found, "LocalQueue").values():
        queue = queues[each["spec"]["clusterQueue"]]
        admitted = queue["spec"]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        assert admitted == each["metadata"]["namespace"]
        led.append(queue["metadata"]["name"])
        for group in queue["spec"]["resourceGroups"]:
            assert {flavor["name"] for flavor in group["flavors"]} <= set(flavors)
    assert sorted(led) == sorted(queues)


@needs_kubectl
def test_tenants_have_the_same_and_nothing_in_common() -> None:
    found = objects("tenants")
    by_team = {
        team: sorted((each["kind"], each["metadata"]["name"]) for each in found if placed_in(each) == team)
        for team in ("team-a", "team-b")
    }
    assert by_team["team-a"] == by_team["team-b"] != []
    assert {placed_in(each) for each in found} == {"team-a", "team-b", "kubeflow", None}
    cohorts = {each["spec"]["cohortName"] for each in of_kind(found, "ClusterQueue").values()}
    assert len(cohorts) == 1


def placed_in(manifest: Manifest) -> str | None:
    return manifest["metadata"].get("namespace")


def test_people_s_runs_go_before_nightly_ones() -> None:
    folder = MANIFESTS / "components" / "priorities"
    runs, nightly = (yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("runs", "nightly"))
    assert runs["value"] > nightly["value"]
    assert nightly["preemptionPolicy"] == "Never"
    example = (MANIFESTS / "examples" / "workload-priorities.yaml").read_text(encoding="utf-8")
    for mine, other in zip((runs, nightly), yaml.safe_load_all(example), strict=True):
        assert (mine["metadata"]["name"], mine["value"]) == (other["metadata"]["name"], other["value"])


@each_file
def test_a_file_opens_with_its_purpose_and_four_commands(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    head = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    assert re.match(r"^# [A-Z]|^# (kind|minikube) ", head[0])
    commands = [line for line in head if re.match(r"^#   \w+: ", line)]
    assert [line.split(":")[0].removeprefix("#   ") for line in commands] == [*WORDS]
    assert max(len(line) for line in lines) <= 120


@each_file
def test_a_file_names_no_image_and_every_path_that_it_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "image:" not in text
    for named in re.findall(r"(?:k8s/manifests|configs)/[\w./-]*\w", text):
        assert (CONFIGS.parent / named).exists(), named
    for named in re.findall(r"(?<![\w/])(?:components|overlays)/[\w./-]*\w", text):
        assert (MANIFESTS / named).exists(), named


def test_a_rule_says_which_code_needs_it() -> None:
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if line.startswith("  - apiGroups:"):
                before = [each for each in lines[:number] if each.startswith("  #")]
                assert before, f"{path.name}: no comment before {line}"


def test_a_job_s_labels_are_those_that_the_manifests_select() -> None:
    assert JOB_PODS.items() <= Job(configured("gpu"), "train", "/workspace/x").labels.items()


def test_the_runtime_gives_a_trainjob_s_pods_what_those_of_a_pytorchjob_have() -> None:
    runtime = yaml.safe_load((MANIFESTS / "examples" / "training-runtime.yaml").read_text(encoding="utf-8"))
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    (given,) = pod.pop("containers")
    job = Job(configured("gpu"), "train", "/workspace/x")
    ours = pod_spec(job, NODES)
    assert (replicated["name"], given.pop("name")) == (NODES, NODES)
    assert given == {name: value for name, value in container(job, NODES).items() if name.endswith("Probe")}
    assert pod == {name: ours[name] for name in pod}
