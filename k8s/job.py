"""A job of a run: what it is called, which labels join it to its pipeline run, and what its pods carry out."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from configs.schema import RunConfig

LABEL = "trainworks.dev/"
"""Prefix of the labels that are ours"""
JOB_PODS = {"app.kubernetes.io/name": "trainworks", "app.kubernetes.io/component": "job"}
SPEC = f"{LABEL}spec"
"""Annotation with the digest of what was asked for, by which a job that exists is known again"""
RETRIES = 2
"""Times that a cluster starts a step of the pipeline again by itself, which goes on where it was"""
LONGEST_NAME = 46
"""Of a job: its pods add `-worker-255` or `-node-0-255-xxxxx` to it, and their host names end at 63 letters"""
MODULES = {"train": "trainer", "evaluate": "trainer.evaluation"}
"""What the ranks of a stage run; the stages that have ranks"""


@dataclass(frozen=True)
class Owner:
    """The pod on whose behalf a job runs: when it is deleted, the cluster deletes the job."""

    name: str
    uid: str


@dataclass(frozen=True)
class Job:
    """One attempt at one stage of a run, as an object of the cluster."""

    run: RunConfig
    stage: str
    folder: str
    """The run folder as the pods see it"""
    pipeline_run: str = ""
    """Identity of the pipeline run that it belongs to"""
    fold: str = ""
    attempt: int = 0
    owner: Owner | None = None
    volume: Mapping[str, Any] | None = None
    """Source of the shared volume, as in a pod's spec; the configuration's claim when not given"""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables of the pods beside those that every job has"""

    @property
    def key(self) -> str:
        """What all attempts at it have in common."""
        parts = [self.run.name, self.stage, self.fold, self.folder, self.pipeline_run]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]

    @property
    def name(self) -> str:
        """The same for the same run and attempt, whoever asks; a DNS-1035 label that leaves room for those of pods."""
        tail = f"-{self.key}-{self.attempt}"
        return f"{self.stage}-{self.run.name}"[: LONGEST_NAME - len(tail)].rstrip("-") + tail

    @property
    def labels(self) -> dict[str, str]:
        """What joins pods, job, pipeline run and W&B group."""
        own = {"run": self.run.name, "stage": self.stage, "key": self.key, "attempt": str(self.attempt)}
        if self.pipeline_run:
            own["pipeline-run"] = self.pipeline_run
        if self.fold:
            own["fold"] = self.fold
        return JOB_PODS | {LABEL + name: value for name, value in own.items()}

    @property
    def command(self) -> list[str]:
        return ["python", "-m", "trainer.node", MODULES[self.stage], self.folder]

    @property
    def per_node(self) -> int:
        """Ranks of each node."""
        return self.run.world.processes // self.run.cluster.nodes


def spec_digest(manifest: Mapping[str, Any]) -> str:
    """Of what a manifest asks for; who owns it and whether it waits in a queue may change."""
    text = json.dumps({**manifest, "metadata": manifest["metadata"]["labels"]}, sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def describe(manifest_spec: Mapping[str, Any], job: Job, *, api_version: str, kind: str) -> dict[str, Any]:
    """A whole manifest: the spec with its names, labels, owner and digest."""
    labels, cluster = job.labels, job.run.cluster
    if cluster.queue:
        labels["kueue.x-k8s.io/queue-name"] = cluster.queue
    metadata: dict[str, Any] = {"name": job.name, "namespace": cluster.namespace, "labels": labels}
    manifest: dict[str, Any] = {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": manifest_spec}
    metadata["annotations"] = {SPEC: spec_digest(manifest)}
    if job.owner:
        metadata["ownerReferences"] = [owner_reference(job.owner)]
    return manifest


def owner_reference(owner: Owner) -> dict[str, Any]:
    """As Kubernetes writes it; the owner's deletion does not wait for the job's."""
    return {"apiVersion": "v1", "kind": "Pod", "name": owner.name, "uid": owner.uid, "blockOwnerDeletion": False}
