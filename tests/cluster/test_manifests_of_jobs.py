"""What is made of a run: objects that an API server would accept, with pods that can do no harm."""

import copy
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from k8s.job import Job
from k8s.joblauncher import KINDS
from tests.cluster.jobs import OWNER, SETTINGS, job
from tests.cluster.schemas import CRD_DIR, crd_folder
from tests.cluster.validation import problems
from tests.golden.__main__ import JOBS, golden_job, golden_job_file, job_text

pytestmark = pytest.mark.cluster

Manifest = dict[str, Any]
DNS_1035 = re.compile(r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
LONGEST = 63
TAILS = {"pytorchjob": "-worker-255", "trainjob": "-node-0-255-xxxxx"}
"""What the names of pods add to that of their job"""

needs_crds = pytest.mark.skipif(crd_folder() is None, reason=f"{CRD_DIR} does not name a folder with CRD files")
each_kind = pytest.mark.parametrize("kind", KINDS)
each_setting = pytest.mark.parametrize("setting", SETTINGS)


def rendered(kind: str, made: Job) -> Manifest:
    """As it travels: nothing is shared, tuples are lists."""
    return json.loads(json.dumps(KINDS[kind].build(made)))


def pods(manifest: Manifest) -> Iterator[Manifest]:
    """The pods that a manifest describes, or those parts that it decides."""
    if manifest["kind"] == "PyTorchJob":
        yield from (each["template"] for each in manifest["spec"]["pytorchReplicaSpecs"].values())
    else:
        (patch,) = manifest["spec"]["runtimePatches"]
        jobs = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        yield from (each["template"]["spec"]["template"] for each in jobs)


def suspends(manifest: Manifest) -> bool:
    spec = manifest["spec"]
    return spec["suspend"] if manifest["kind"] == "TrainJob" else spec["runPolicy"]["suspend"]


def variables(manifest: Manifest) -> list[Manifest]:
    if manifest["kind"] == "TrainJob":
        return manifest["spec"]["trainer"]["env"]
    return [each for pod in pods(manifest) for each in pod["spec"]["containers"][0]["env"]]


@needs_crds
@each_kind
@each_setting
def test_every_manifest_is_one_that_a_cluster_accepts(kind: str, setting: str) -> None:
    assert problems(rendered(kind, job(setting))) == []


def master(manifest: Manifest) -> Manifest:
    return manifest["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]


POD = "spec.pytorchReplicaSpecs.Master.template.spec"
CONTAINER = f"{POD}.containers[0]"
PLANTED: dict[str, tuple[Callable[[Manifest], object], str]] = {
    "an unknown field": (
        lambda found: master(found)["containers"][0]["livenessProbe"].update(periodSecond=3),
        f"{CONTAINER}.livenessProbe.periodSecond: unknown field",
    ),
    "an unknown field at the top": (lambda found: found.update(specs={}), "specs: unknown field"),
    "an unknown field of the metadata": (
        lambda found: found["metadata"].update(label={}),
        "metadata.label: unknown field",
    ),
    "a wrong type": (
        lambda found: master(found).update(terminationGracePeriodSeconds="90"),
        f"{POD}.terminationGracePeriodSeconds: '90' is not of type 'integer'",
    ),
    "a number of processes that is no text": (
        lambda found: found["spec"].update(nprocPerNode=2),
        "spec.nprocPerNode: 2 is not of type 'string'",
    ),
    "no container": (
        lambda found: master(found).pop("containers"),
        f"{POD}: 'containers' is a required property",
    ),
    "a container of another name": (
        lambda found: master(found)["containers"][0].update(name="main"),
        f"{POD}.containers: none is named pytorch",
    ),
    "a policy misspelt": (
        lambda found: found["spec"]["runPolicy"].update(cleanPodPolicy="Runing"),
        "spec.runPolicy.cleanPodPolicy: 'Runing' is not one of All, None, Running",
    ),
    "no policy": (
        lambda found: found["spec"]["runPolicy"].pop("cleanPodPolicy"),
        "spec.runPolicy.cleanPodPolicy: missing, so that pods would stay",
    ),
    "restarts that nobody knows": (
        lambda found: found["spec"]["pytorchReplicaSpecs"]["Master"].update(restartPolicy="Sometimes"),
        "spec.pytorchReplicaSpecs.Master.restartPolicy: 'Sometimes' is not one of Always, ExitCode, Never, OnFailure",
    ),
    "a replica's restarts for a pod": (
        lambda found: master(found).update(restartPolicy="ExitCode"),
        f"{POD}.restartPolicy: 'ExitCode' is not one of Always, Never, OnFailure",
    ),
    "a role that does not exist": (
        lambda found: found["spec"]["pytorchReplicaSpecs"].update(
            Chief=found["spec"]["pytorchReplicaSpecs"].pop("Worker")
        ),
        "spec.pytorchReplicaSpecs.Chief: not a role of a PyTorchJob",
    ),
    "a quantity that is none": (
        lambda found: master(found)["containers"][0]["resources"]["limits"].update(memory="8 GB"),
        f"{CONTAINER}.resources.limits.memory: '8 GB' does not match",
    ),
    "more asked for than allowed": (
        lambda found: master(found)["containers"][0]["resources"]["limits"].update(memory="1Gi"),
        f"{CONTAINER}.resources.requests.memory: 8Gi is more than its limit 1Gi",
    ),
    "a variable twice": (
        lambda found: master(found)["containers"][0]["env"].append({"name": "HOME", "value": "/root"}),
        f"{CONTAINER}.env: two items with the same name: 'HOME'",
    ),
    "a label's value": (
        lambda found: found["metadata"]["labels"].update(run="a b"),
        "metadata.labels.run: 'a b' is no value of a label",
    ),
    "nothing where something belongs": (
        lambda found: found["spec"].update(nprocPerNode=None),
        "spec.nprocPerNode: None is not of type 'string'",
    ),
    "another version": (
        lambda found: found.update(apiVersion="kubeflow.org/v2"),
        "no schema for PyTorchJob of kubeflow.org/v2",
    ),
}


@needs_crds
@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_error_is_refused_with_its_path(plant: str) -> None:
    manifest = rendered("pytorchjob", job("two-nodes"))
    spoil, expected = PLANTED[plant]
    spoil(manifest)
    assert [line for line in problems(manifest) if line.startswith(expected)], problems(manifest)


@needs_crds
def test_a_field_that_a_trainjob_cannot_carry_is_refused() -> None:
    manifest = rendered("trainjob", job("plain"))
    (pod,) = pods(manifest)
    pod["spec"]["priorityClassName"] = "trainworks-runs"
    (line,) = problems(manifest)
    assert line.startswith("spec.runtimePatches[0].trainingRuntimeSpec.template.spec.replicatedJobs[0].template.spec.")
    assert line.endswith(".priorityClassName: unknown field")


@pytest.mark.parametrize(("field", "value"), [("storage", "ten"), ("storage", "10GiB"), ("storage", True)])
def test_a_bad_quantity_of_a_built_in_kind_is_refused(field: str, value: object) -> None:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {field: value}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "workspace"}, "spec": spec}
    assert any(f"spec.resources.requests.{field}" in line for line in problems(claim))
    spec["resources"]["requests"][field] = "10Gi"
    assert problems(claim) == []


PLAIN_RUN = job("plain").run


@settings(max_examples=200, deadline=None)
@given(
    name=st.from_regex(r"\A[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z"),
    stage=st.sampled_from(["train", "evaluate"]),
    fold=st.sampled_from(["", "0-0", "9-9"]),
    attempt=st.integers(0, 9999),
)
def test_a_job_s_pods_have_names_that_dns_can_hold(name: str, stage: str, fold: str, attempt: int) -> None:
    run = PLAIN_RUN.model_copy(update={"name": name})
    made = Job(run, stage, "/workspace/x", fold=fold, attempt=attempt)
    for tail in TAILS.values():
        assert DNS_1035.match(made.name + tail)
        assert len(made.name + tail) <= LONGEST


@each_kind
def test_no_secret_s_value_is_rendered_only_where_it_lies(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job("secrets")
    for name in made.run.cluster.secrets:
        monkeypatch.setitem(os.environ, name, "value-of-the-secret")
    manifest = rendered(kind, made)
    assert "value-of-the-secret" not in json.dumps(manifest)
    found = [each for each in variables(manifest) if each["name"] in made.run.cluster.secrets]
    assert {each["name"] for each in found} == set(made.run.cluster.secrets)
    for each in found:
        secret = made.run.cluster.secrets[each["name"]]
        assert each["valueFrom"] == {"secretKeyRef": {"name": secret.name, "key": secret.key}}
        assert "value" not in each


@each_kind
@each_setting
def test_a_pod_can_do_no_harm(kind: str, setting: str) -> None:
    manifest = rendered(kind, job(setting))
    for pod in pods(manifest):
        spec, (container,) = pod["spec"], pod["spec"]["containers"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"]["drop"] == ["ALL"]
        assert set(security["capabilities"].get("add", [])) <= {"IPC_LOCK"}
        assert "privileged" not in security
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert not any("hostPath" in volume for volume in spec["volumes"])
        assert spec["serviceAccountName"] == "trainworks-job"
        assert pod["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"


@each_setting
def test_a_pod_has_no_token_of_the_cluster(setting: str) -> None:
    for pod in pods(rendered("pytorchjob", job(setting))):
        assert pod["spec"]["automountServiceAccountToken"] is False


@each_kind
@each_setting
def test_what_a_pod_writes_is_in_memory_scratch_or_the_workspace(kind: str, setting: str) -> None:
    for pod in pods(rendered(kind, job(setting))):
        (container,) = pod["spec"]["containers"]
        paths = {each["mountPath"] for each in container["volumeMounts"]}
        assert {"/dev/shm", "/tmp"} < paths
        assert len(paths) == len(pod["spec"]["volumes"]) == 3


@each_kind
def test_a_job_in_a_queue_waits_to_be_let_in_and_names_its_owner(kind: str) -> None:
    manifest = rendered(kind, job("queue"))
    assert suspends(manifest) is True
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "trainworks"
    assert [each["uid"] for each in manifest["metadata"]["ownerReferences"]] == [OWNER.uid]
    assert suspends(rendered(kind, job("plain"))) is False


@each_kind
@each_setting
def test_rendering_is_a_pure_function(kind: str, setting: str) -> None:
    made = job(setting)
    once = KINDS[kind].build(made)
    as_it_was = copy.deepcopy(once)
    assert KINDS[kind].build(made) == as_it_was
    assert once == as_it_was


@pytest.mark.parametrize("name", JOBS)
def test_a_manifest_equals_its_golden_file(name: str) -> None:
    written = golden_job_file(name).read_text(encoding="utf-8")
    assert job_text(name) == written, "changed on purpose? make golden, and look"


@needs_crds
@pytest.mark.parametrize("name", JOBS)
def test_a_golden_file_is_what_a_cluster_accepts(name: str) -> None:
    manifest = yaml.safe_load(golden_job_file(name).read_text(encoding="utf-8"))
    assert problems(manifest) == []
    assert manifest["metadata"]["name"] == golden_job(name).name


def test_golden_files_of_jobs_are_all_of_jobs_that_are_rendered() -> None:
    folder = Path(golden_job_file("pytorchjob")).parent
    assert {path.name for path in folder.glob("*.job.yaml")} == {golden_job_file(name).name for name in JOBS}
