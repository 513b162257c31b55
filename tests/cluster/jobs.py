"""Jobs in many configurations, for tests of what is made of them."""

from configs.load import load
from k8s.job import Job, Owner
from tests.golden.__main__ import CONFIGS

DIGEST = f"registry.example.org/team/trainworks@sha256:{'ab' * 32}"
OWNER = Owner("demo-lm-7k2xq-system-container-impl-123", "6f2d1c9a-0000-4000-8000-1234567890ab")
PIPELINE_RUN = "0b6a4f0e-8c1d-4a53-9d42-6a4c1e1f9a77"
PLAIN = ["cluster.workspace.claim=workspace", f"cluster.image={DIGEST}"]
GPUS = ["cluster.node.gpus=8", 'cluster.node.cpu="64"', "cluster.node.memory=512Gi", "cluster.node.shared_memory=64Gi"]
SETTINGS: dict[str, list[str]] = {
    "plain": [],
    "two-nodes": ["cluster.nodes=2"],
    "sixteen-nodes-of-gpus": ["cluster.nodes=16", "world.processes=128", "world.micro_batch_samples=auto", *GPUS],
    "queue": ["cluster.queue=trainworks", "cluster.priority=trainworks-nightly"],
    "network-cards": ["cluster.node.rdma={resource: rdma/hca_shared_devices_a, count: 2}"],
    "other-gpus": ["cluster.node.gpus=2", "cluster.node.gpu_resource=amd.com/gpu"],
    "taints": [
        "cluster.tolerations=[{key: nvidia.com/gpu}, {key: pool, value: train, effect: NoSchedule}]",
        "cluster.node_selector={node.kubernetes.io/instance-type: p5.48xlarge}",
    ],
    "spread": ["cluster.nodes=2", "cluster.spread=topology.kubernetes.io/zone"],
    "secrets": ["cluster.secrets={WANDB_API_KEY: {name: wandb, key: api-key}, HF_TOKEN: {name: hub, key: token}}"],
    "pull-secrets": ["cluster.pull_secrets=[registry, mirror.example.org]"],
    "amounts": ["cluster.node.cpu=500m", "cluster.node.scratch=1Ti", "cluster.patience.keep_failed_s=60"],
    "times": ["world.grace_s=1800", "cluster.patience.stall_s=7200", "world.timeout_s=3600"],
}
"""Overrides of the demo, by what they show"""


def job(name: str) -> Job:
    """Training of the demo in one of the settings; the rich ones are of a fold, and owned by a step's pod."""
    run = load([str(CONFIGS / "demo-lm.yaml"), *PLAIN, *_batch(name), *SETTINGS[name]])
    if name in ("plain", "two-nodes"):
        return Job(run, "train", "/workspace/demo-lm")
    volume = {"persistentVolumeClaim": {"claimName": "demo-lm-7k2xq-kfp-workspace"}}
    environment = {"NCCL_DEBUG": "WARN"}
    return Job(run, "evaluate", "/kfp-workspace/demo-lm", PIPELINE_RUN, "0-3", 2, OWNER, volume, environment)


def _batch(name: str) -> list[str]:
    """The demo's batch of 32 has no share for each of 128 ranks."""
    return ["train.global_batch_samples=128"] if name == "sixteen-nodes-of-gpus" else []
