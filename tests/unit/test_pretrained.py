"""Weights of one run as the beginning of another: what is copied, what is drawn anew, what is refused."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from configs.errors import ConfigError
from configs.folder import RunFolder, write_atomic
from configs.language import DecoderConfig
from configs.load import dump
from configs.origin import find_origin, require_origin
from configs.stages import step_folder
from data.manifest import Manifest, read_manifest
from tests.tiny import Memory, checkpoints, random_documents, tiny_run, write_dataset
from trainer.checkpoint import TrainState, weights
from trainer.interchange.export import write_layout
from trainer.models.heads import LanguageHead
from trainer.models.transformer import Transformer
from trainer.parts import first_update, part_of, rate_scale
from trainer.pretrained import Origin, load_pretrained


class Toy(nn.Module):
    """A body with running statistics under a head."""

    def __init__(self, *, width: int = 4, outputs: int = 3, layers: int = 2) -> None:
        super().__init__()
        self.stem = nn.Linear(2, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width)) for _ in range(layers)
        )
        self.head = nn.Linear(width, outputs)

    def parts(self) -> list[tuple[str, ...]]:
        return [("stem",), *((f"layers.{index}",) for index in range(len(self.layers))), ("head",)]


def filled(network: nn.Module, value: float) -> dict[str, Tensor]:
    return {name: torch.full_like(tensor, value) for name, tensor in weights(network).items()}


def save(folder: RunFolder, step: int, kinds: dict[str, dict[str, Tensor]]) -> None:
    checkpointer = checkpoints(folder.train, {"data": "d", "config": "c"})
    checkpointer.save({"model": Memory(kinds)}, TrainState(step, step, "00" * 32), {})


@pytest.fixture
def source(tmp_path: Path) -> RunFolder:
    """A prepared run `first` with a checkpoint of ones after step 3."""
    folder, run = RunFolder(tmp_path / "first"), tiny_run()
    write_dataset(run, folder, {"train": random_documents([40], vocabulary_size=270, end=0)})
    write_atomic(folder.config, dump(run))
    save(folder, 3, {"weights": filled(Toy(), 1.0)})
    return folder


def begin(
    source: RunFolder, network: nn.Module, *, manifest: Manifest | None = None, init_from: str = "first"
) -> Origin | None:
    """What a run beside the source starts from."""
    folder = RunFolder(source.path.with_name("second"))
    folder.train.mkdir(parents=True, exist_ok=True)
    run = tiny_run(task__model__init_from=init_from)
    return load_pretrained({"model": network}, run, folder, manifest or read_manifest(source.manifest), writes=True)


def values(network: nn.Module) -> dict[str, set[float]]:
    """What each tensor of real numbers holds."""
    return {name: set(t.flatten().tolist()) for name, t in weights(network).items() if t.is_floating_point()}


def test_a_run_of_the_same_task_starts_with_every_weight_and_says_from_where(source: RunFolder) -> None:
    network = Toy()
    origin = begin(source, network)
    assert origin is not None
    assert set(values(network)) >= {"layers.1.1.running_mean", "head.bias"}
    assert all(held == {1.0} for held in values(network).values())
    record = json.loads((source.path.with_name("second") / "train" / "init.json").read_text())
    digest = json.loads((step_folder(source.train, 3) / "complete.json").read_text())["digest"]
    body = sum(tensor.is_floating_point() for tensor in weights(network).values()) - 2
    assert record == {
        "source": str(source.path),
        "step": 3,
        "checkpoint": digest,
        "body_tensors": body,
        "head": "loaded",
    }


def test_without_the_setting_weights_stay_as_drawn(tmp_path: Path) -> None:
    network = Toy()
    drawn = {name: tensor.clone() for name, tensor in weights(network).items()}
    manifest = Manifest.model_construct()
    assert load_pretrained({"model": network}, tiny_run(), RunFolder(tmp_path), manifest, writes=True) is None
    assert all(torch.equal(tensor, drawn[name]) for name, tensor in weights(network).items())


def test_averaged_weights_are_taken_of_a_run_that_averages(source: RunFolder) -> None:
    write_atomic(source.config, dump(tiny_run(train__ema="{decay: 0.9}")))
    averages = filled(Toy(), 3.0)
    floats = {name: tensor for name, tensor in averages.items() if tensor.is_floating_point()}
    save(source, 5, {"weights": filled(Toy(), 2.0), "ema": floats})
    network = Toy()
    begin(source, network)
    assert all(held == {3.0} for held in values(network).values())


def test_the_head_is_drawn_anew_where_the_classes_are_others(source: RunFolder) -> None:
    network = Toy()
    drawn = network.head.weight.detach().clone()
    manifest = read_manifest(source.manifest).model_copy(update={"classes": ("comedy", "tragedy", "history")})
    origin = begin(source, network, manifest=manifest)
    assert origin is not None
    assert origin.head == "drawn"
    assert torch.equal(network.head.weight, drawn)
    assert values(network)["stem.weight"] == {1.0}


def test_the_head_is_drawn_anew_where_it_has_another_shape_or_other_layers(source: RunFolder) -> None:
    assert getattr(begin(source, Toy(outputs=7)), "head", None) == "drawn"
    network = Toy()
    network.head = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))  # type: ignore[assignment]
    assert getattr(begin(source, network), "head", None) == "drawn"


def test_a_checkpoint_of_another_architecture_is_refused_with_the_tensors_and_the_shapes(source: RunFolder) -> None:
    network = Toy(width=6)
    drawn = {name: tensor.clone() for name, tensor in weights(network).items()}
    with pytest.raises(
        ConfigError, match=r"another architecture: stem.weight: \[6, 2\] here, \[4, 2\] there"
    ) as caught:
        begin(source, network)
    assert "more)" in str(caught.value)
    assert all(torch.equal(tensor, drawn[name]) for name, tensor in weights(network).items())
    with pytest.raises(ConfigError, match=r"layers.2.0.weight: \[4, 4\] here, none there"):
        begin(source, Toy(layers=3))
    with pytest.raises(ConfigError, match=r"layers.1.0.weight: none here, \[4, 4\] there"):
        begin(source, Toy(layers=1))


def test_the_settings_in_which_the_networks_differ_are_named(source: RunFolder) -> None:
    write_atomic(source.config, dump(tiny_run(task__model__num_layers=3)))
    with pytest.raises(ConfigError, match=r"task\.model: num_layers: 2 here, 3 there"):
        begin(source, Toy(layers=3))


def test_another_tokenizer_is_refused_with_the_way_to_the_same_one(source: RunFolder) -> None:
    manifest = read_manifest(source.manifest)
    other = manifest.model_copy(update={"tokenizer": manifest.text.model_copy(update={"sha256": "f" * 64})})
    with pytest.raises(ConfigError, match="another tokenizer") as caught:
        begin(source, Toy(), manifest=other)
    assert f"data.tokenizer={{kind: file, path: {source.tokenizer}}}" in str(caught.value)


def test_a_damaged_newest_checkpoint_is_skipped_aloud(source: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    save(source, 9, {"weights": filled(Toy(), 9.0)})
    (step_folder(source.train, 9) / "model.weights.rank-00000.safetensors").write_bytes(b"torn")
    origin = begin(source, Toy())
    assert origin is not None
    assert origin.step == 3
    said = capsys.readouterr().out
    assert "skipping a damaged checkpoint" in said
    assert f"tensors of the body from {source.path} step 3; head too" in said


def test_a_source_that_is_missing_untrained_or_the_run_itself_is_refused(source: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        begin(source, Toy(), init_from="nowhere")
    with pytest.raises(ConfigError, match="this run's own folder"):
        begin(source, Toy(), init_from="second")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds neither a run"):
        begin(source, Toy(), init_from="empty")
    untrained = RunFolder(tmp_path / "untrained")
    untrained.path.mkdir()
    write_atomic(untrained.config, dump(tiny_run()))
    with pytest.raises(ConfigError, match="has no checkpoint"):
        begin(source, Toy(), init_from="untrained")
    (step_folder(source.train, 3) / "complete.json").unlink()
    with pytest.raises(ConfigError, match="no sound checkpoint"):
        begin(source, Toy())


def test_a_path_finds_the_source_too_and_a_run_with_checkpoints_needs_it_no_more(
    source: RunFolder, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "elsewhere" / "second")
    assert find_origin(tiny_run(task__model__init_from=str(source.path)), folder) == source.path
    gone = tiny_run(task__model__init_from="gone")
    with pytest.raises(ConfigError):
        require_origin(gone, folder)
    save(folder, 1, {"weights": filled(Toy(), 1.0)})
    require_origin(gone, folder)


def test_a_fold_finds_the_source_beside_its_cross_validation(source: RunFolder) -> None:
    folder = RunFolder(source.path.with_name("crossed"))
    folder.path.mkdir()
    write_atomic(folder.config, dump(tiny_run()))
    named = tiny_run(task__model__init_from=source.path.name)
    assert find_origin(named, folder.fold("0-1")) == source.path


def test_a_tensor_is_of_the_part_with_the_longest_prefix_of_its_name() -> None:
    parts = [("stem", "blocks.1.norm"), ("blocks.1",), ("blocks.10",), ("head",)]
    assert [
        part_of(name, parts) for name in ("stem.weight", "blocks.1.norm.bias", "blocks.1.x", "blocks.10.x", "head")
    ] == [
        0,
        0,
        1,
        2,
        3,
    ]
    assert part_of("header.weight", parts) is None


def test_rates_fall_from_the_head_down_and_layers_thaw_from_the_head_down() -> None:
    run = tiny_run(train__fine_tune="{body_rate: 0.5, layer_decay: 0.8, unfreeze_every_steps: 10}")
    config, parts = run.train.fine_tune, Toy().parts()
    assert config is not None
    assert [rate_scale(place, 3, config) for place in range(4)] == pytest.approx([0.5 * 0.8**3, 0.5 * 0.64, 0.4, 1.0])
    assert [rate_scale(place, 3, None) for place in range(4)] == [1.0] * 4
    names = ("stem.bias", "layers.0.1", "layers.1.0.weight", "head.weight")
    assert [first_update(name, parts, config) for name in names] == [30, 20, 10, 0]
    frozen = config.model_copy(update={"frozen": True, "unfreeze_every_steps": None})
    assert [first_update(name, parts, frozen) for name in names] == [float("inf")] * 3 + [0]


@pytest.fixture
def layout(source: RunFolder) -> Path:
    """A small GPT-2 in Hugging Face's layout, over the source's vocabulary."""
    folder = source.path.with_name("gpt2")
    write_layout(gpt2(3), folder, tokenizer=source.tokenizer, record=read_manifest(source.manifest).text)
    return folder


def gpt2(seed: int, *, num_layers: int = 2) -> Transformer:
    shape = DecoderConfig(
        kind="decoder",
        num_layers=num_layers,
        width=16,
        num_heads=2,
        norm="layer_norm",
        positions="learned",
        activation="gelu",
        bias=True,
    )
    torch.manual_seed(seed)
    head = LanguageHead(shape, vocabulary_size=270)
    return Transformer(shape, vocabulary_size=270, context_tokens=16, head=head)


def test_a_folder_in_hugging_faces_layout_is_a_beginning_too(source: RunFolder, layout: Path) -> None:
    network = gpt2(4)
    origin = begin(source, network, init_from="gpt2")
    assert origin is not None
    assert (origin.source, origin.step, origin.head) == (str(layout), None, "loaded")
    for name, tensor in weights(gpt2(3)).items():
        assert torch.equal(tensor, weights(network)[name]), name


@pytest.mark.usefixtures("layout")
def test_a_folder_of_another_shape_is_refused(source: RunFolder) -> None:
    with pytest.raises(ConfigError, match="another architecture"):
        begin(source, gpt2(4, num_layers=3), init_from="gpt2")
