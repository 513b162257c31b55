"""A suite on a cluster: one step does its runs and gates them, and a step after it fails when something is worse."""

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from kfp import compiler, dsl

from configs.cluster import ClusterConfig
from configs.errors import ConfigError
from configs.load import load
from configs.schema import RunConfig
from configs.suite import SuiteConfig
from configs.suite_file import arguments_of, read_suite
from k8s.job import LABEL, RETRIES
from pipelines.baselines import folder_of, versions_in
from pipelines.components import nightly, verdict
from pipelines.gate.artifacts import fill_artifacts
from pipelines.nightly import build_page, code_of, do_suite, home_of
from pipelines.on_cluster import describe_task, give_a_node, workspace_of

if TYPE_CHECKING:
    Shown = tuple[dsl.Metrics, dsl.HTML]

MEANINGS = {1: "something is worse, or a run failed", 2: "something could not be compared with its baseline"}


def build_nightly(path: Path, overlay: Path, cluster: ClusterConfig) -> Any:
    """The pipeline of a suite. Raises ConfigError where its baselines would not outlive it."""
    if cluster.workspace.claim is None:
        raise ConfigError(
            f"{path}: a suite is compared with baselines that outlive the pipeline run: set "
            "cluster.workspace.claim to a volume of your own"
        )
    suite, text = read_suite(path), encode_suite(path, overlay)
    labels = {f"{LABEL}run": suite.name}

    @dsl.pipeline(
        name=f"trainworks-{suite.name}",
        description=f"Gate the suite {suite.name} against its baselines.",
    )
    def gated() -> None:
        given: Any = {"suite": text, "workspace": workspace_of(cluster)}
        done: Any = nightly(**given)
        judged: Any = verdict(code=done.outputs["Output"])
        for task, retries in ((done, RETRIES), (judged, 0)):
            task.set_container_image(cluster.image)
            describe_task(task, cluster, labels, retries)
        give_a_node(done, cluster)

    return gated


def compile_nightly(path: Path, overlay: Path, cluster: ClusterConfig, to: Path) -> None:
    """Write the pipeline of a suite as KFP's YAML."""
    compiler.Compiler().compile(build_nightly(path, overlay, cluster), str(to))


def encode_suite(path: Path, overlay: Path) -> str:
    """A suite and its runs' configurations, resolved: the image need not hold their files."""
    suite = read_suite(path)
    runs: dict[str, Any] = {}
    for run in suite.runs:
        runs[run.name] = load_alone(arguments_of(path, run, suite.seeds[0]), overlay).model_dump(mode="json")
    return json.dumps({"suite": suite.model_dump(mode="json"), "runs": runs})


def load_alone(arguments: Sequence[str], overlay: Path) -> RunConfig:
    """A run of a suite, which one pod carries out: with a GPU for each process, where the cluster's nodes have any."""
    config, *words = arguments
    run = load([config, str(overlay), *words, "cluster.nodes=1", "cluster.node.gpus=0"])
    tree = yaml.safe_load(overlay.read_text(encoding="utf-8")) or {}
    if not ((tree.get("cluster") or {}).get("node") or {}).get("gpus"):
        return run
    return load([config, str(overlay), *words, "cluster.nodes=1", f"cluster.node.gpus={run.world.processes}"])


def write_suite(text: str, folder: Path) -> Path:
    """The files that an encoded suite was made from, with every override in them."""
    content: Mapping[str, Any] = json.loads(text)
    for name, tree in content["runs"].items():
        (folder / f"{name}.yaml").write_text(json.dumps(tree), encoding="utf-8")
    runs = [{"name": each["name"], "config": f"{each['name']}.yaml"} for each in content["suite"]["runs"]]
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"suite": content["suite"] | {"runs": runs}}), encoding="utf-8")
    return path


def nightly_step(suite: str, workspace: str, shown: "Shown") -> int:
    """Do a suite in the shared volume, and fill the step's artifacts; returns its exit code.

    Where a family has no baseline yet, all of them are stored: there is nothing to compare with. A run that a signal
    ended ends the step, which is started again.
    """
    with tempfile.TemporaryDirectory(prefix="trainworks-") as scratch:
        path = write_suite(suite, Path(scratch))
        read, baselines = read_suite(path), Path(workspace) / "baselines"
        home = home_of(read, path, Path(workspace) / "suites")
        home.mkdir(parents=True, exist_ok=True)
        done = do_suite(read, path, home, baselines, stores=not has_baselines(read, baselines))
    if isinstance(done, int):
        sys.exit(done)
    judgements = {family.name: family.judgement for family in done if family.judgement}
    fill_artifacts(judgements, build_page(read, done), *shown)
    return code_of(done)


def has_baselines(suite: SuiteConfig, home: Path) -> bool:
    """Whether each family has something to be compared with."""
    return all(versions_in(folder_of(f"{suite.gate.baseline}-{run.name}", home)) for run in suite.runs)


def verdict_step(code: int) -> None:
    """End as the suite did."""
    if code:
        print(f"{MEANINGS.get(code, f'it ended with code {code}')}; the step before shows the page", flush=True)
        sys.exit(code)
