"""Whether Kubeflow Pipelines and Weights & Biases answer."""

import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from configs.errors import OutageError
from configs.schema import RunConfig
from k8s.api import Api, RefusedError
from k8s.checks.finding import Finding, failed, ok, skipped, unknown, unreadable
from k8s.checks.inside import answers, wandb_address
from k8s.checks.rights import PIPELINES_SERVICE

PIPELINES, WANDB = "pipelines", "W&B"
HEALTH = "/apis/v2beta1/healthz"
OLDEST = (2, 15)
"""Since when a pipeline run has a volume of its own, and a step hands its settings on to its job"""
KEY = "WANDB_API_KEY"
ANSWER_S = 5.0


def pipelines(run: RunConfig, api: Api) -> Iterator[Finding]:
    """Whether Kubeflow Pipelines answers, and is new enough."""
    settings = run.cluster.pipelines
    where = settings.url or f"service ml-pipeline in namespace {settings.namespace}"
    try:
        told = _at_address(settings.url) if settings.url else _through(api, settings.namespace)
    except RefusedError as error:
        if error.status == 401 and not settings.url:
            raise
        yield unreadable(PIPELINES, f"get services/proxy {PIPELINES_SERVICE} in namespace {settings.namespace}", error)
    except (OutageError, OSError) as error:
        yield failed(PIPELINES, f"{where} does not answer: {error}", "is its ml-pipeline pod running?")
    except ValueError:
        yield unknown(PIPELINES, f"{where} does not tell its version", "does it ask for a login?")
    else:
        yield _judge(where, told)


def _through(api: Api, namespace: str) -> Any:
    """What it says through the cluster's API; None where it is not there."""
    patient_once = replace(api, outage_s=0.0)
    return patient_once.read(f"/api/v1/namespaces/{namespace}/services/{PIPELINES_SERVICE}/proxy{HEALTH}")


def _at_address(url: str) -> Any:
    """What it says at its own address; None where there is no such page. Raises OSError, RefusedError, ValueError."""
    try:
        with urllib.request.urlopen(url.rstrip("/") + HEALTH, timeout=ANSWER_S) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        if error.code in (401, 403):
            raise ValueError from None
        raise


def _judge(where: str, told: Any) -> Finding:
    if told is None:
        remedy = (
            "install Kubeflow Pipelines 2.15 or newer, or name it: cluster.pipelines.namespace, cluster.pipelines.url"
        )
        return failed(PIPELINES, f"there is no {where}", remedy)
    version = str(told.get("tag_name", "")) if isinstance(told, dict) else ""
    number = re.match(r"v?(\d+)\.(\d+)", version)
    if number is None:
        return unknown(PIPELINES, f"{where} answers, and does not tell its version", "it has to be 2.15 or newer")
    if (int(number[1]), int(number[2])) < OLDEST:
        return failed(PIPELINES, f"{where} is {version}, older than 2.15", "upgrade it: earlier ones know no workspace")
    return ok(PIPELINES, f"Kubeflow Pipelines {version}")


def wandb(run: RunConfig | None, *, on_cluster: bool) -> Finding:
    """Whether Weights & Biases answers here, and whether the run has a key."""
    mode = run.wandb.mode if run else "auto"
    if mode in ("disabled", "offline"):
        return skipped(WANDB, f"wandb.mode={mode}")
    has_key = KEY in run.cluster.secrets if run and on_cluster else bool(os.environ.get(KEY))
    where = f"cluster.secrets.{KEY}" if on_cluster else f"{KEY} in the environment"
    if not has_key and mode == "online":
        return failed(WANDB, "wandb.mode=online, and the run has no key", f"set {where}, or use wandb.mode=offline")
    if not has_key:
        return ok(WANDB, f"no key, so runs stay offline; {where} would show them")
    address = wandb_address()
    if answers(address):
        return ok(WANDB, f"a key, and {address} answers")
    if mode == "auto":
        return ok(WANDB, f"{address} does not answer from here, so runs stay offline")
    if on_cluster:
        remedy = "trainworks doctor --try-pod asks from a pod"
        return unknown(WANDB, f"{address} does not answer from here; it may from the cluster", remedy)
    return failed(WANDB, f"wandb.mode=online, and {address} does not answer", "use wandb.mode=auto or offline")
