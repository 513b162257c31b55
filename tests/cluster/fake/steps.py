"""The pod of a pipeline run on the fake cluster: every step of it, one after the other, by kfp's own runner."""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from pipelines.steps import STOPPING

PLACEHOLDER = "{{$.pipeline_job_uuid}}"


def main() -> int:
    """Carry out the pipeline in a folder that holds it; exits as it ends."""
    signal.signal(signal.SIGTERM, _stop)
    _know_own_pod()
    place = Path(sys.argv[1])
    pipeline = place / "pipeline.yaml"
    pipeline.write_text(pipeline.read_text().replace(PLACEHOLDER, (place / "run").read_text()))
    from kfp import components, local

    with tempfile.TemporaryDirectory(prefix="kfp-") as scratch:
        local.init(
            runner=local.SubprocessRunner(use_venv=False),
            pipeline_root=os.path.join(scratch, "root"),
            workspace_root=os.path.join(scratch, "workspace"),
        )
        component = components.load_component_from_file(str(pipeline))
        component(**json.loads((place / "parameters.json").read_text()))
    return 0


def _know_own_pod() -> None:
    """KFP has the pod's identity in its environment; here it is asked for."""
    from k8s.api import PODS, Api
    from k8s.connect import connect

    namespace = os.environ.get("POD_NAMESPACE", "trainworks")
    pod = Api(connect(), namespace).get(PODS, os.environ["KFP_POD_NAME"])
    assert pod, "this pod is there"
    os.environ["KFP_POD_UID"] = pod["metadata"]["uid"]


def _stop(number: int, frame: object) -> None:
    """The step that runs was sent the same signal; those after it are not to begin."""
    os.environ[STOPPING] = "1"
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
