"""What every family with every network must do; a new one is picked up with no edit here."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from configs.load import load
from configs.quantities import metrics_of
from configs.schema import SamplesConfig
from data.vocabulary import stored_tokenizer
from tests.contract.cases import Case, Kitchen, Recipe, recipes
from tests.tiny import ALONE, CONFIGS, Memory, checkpoints
from trainer.checkpoint import TrainState, load_weights, weights
from trainer.distributed import add, seed_all
from trainer.engines import arrange
from trainer.evaluation.view import View
from trainer.parts import part_of, parts_of
from trainer.showing import untouched
from trainer.tasks import FAMILIES, evaluation_of, showing_of

OVERFIT_STEPS, OVERFIT_SAMPLES = 200, 32
OVERFIT_SHARE = 0.25
"""After 200 updates on 32 samples the loss per term has been below this share of the first"""


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    return Kitchen(tmp_path_factory.mktemp("kitchen"))


@pytest.fixture(scope="module", params=recipes(), ids=lambda recipe: recipe.name)
def case(request: pytest.FixtureRequest, kitchen: Kitchen) -> Case:
    recipe: Recipe = request.param
    return kitchen.cook(recipe)


def close(ours: Tensor, theirs: Tensor, rtol: float = 1e-4) -> None:
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=1e-4)


def test_every_configuration_is_of_a_registered_family_and_every_family_has_one() -> None:
    assert {load([str(path)]).task.kind for path in CONFIGS} == set(FAMILIES)


def test_it_builds_networks_for_each_turn_with_the_same_weights_for_the_same_seed(case: Case) -> None:
    first, second = case.networks(), case.networks()
    assert case.task.turns
    assert set(case.task.turns) <= set(first)
    for name, network in first.items():
        theirs = weights(second[name])
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in weights(network).items())


def test_its_evaluation_can_be_imported(case: Case) -> None:
    assert callable(evaluation_of(case.run))


def test_its_samples_in_training_are_the_same_again_few_and_cost_the_training_nothing(case: Case) -> None:
    """As records that the report can show; a family that has none is not complete."""
    make = showing_of(case.run)
    assert make is not None, "name what shows samples in the registry"
    settings, calls = SamplesConfig(number=3, max_tokens=4, drawing_steps=2), list[int]()
    nets, tokenizer = case.networks(), stored_tokenizer(case.folder.tokenizer)
    before = {name: {key: tensor.clone() for key, tensor in weights(net).items()} for name, net in nets.items()}
    modes = [module.training for net in nets.values() for module in net.modules()]

    def made() -> list[dict[str, Any]]:
        state = torch.get_rng_state()
        reader = case.readers["validation"]
        with untouched(nets, ALONE.device, compiled=False):
            view = View(
                case.run, case.manifest, case.task, nets, reader, tokenizer, ALONE, settings, lambda: calls.append(1)
            )
            records = make(view)
        assert torch.equal(torch.get_rng_state(), state)
        return records

    first = made()
    torch.manual_seed(99)
    assert made() == first
    assert 0 < len(first) <= settings.number
    assert all(record and all(isinstance(value, str | int) for value in record.values()) for record in first)
    assert json.loads(json.dumps(first, allow_nan=False)) == first
    assert [module.training for net in nets.values() for module in net.modules()] == modes
    for name, net in nets.items():
        assert all(torch.equal(tensor, before[name][key]) for key, tensor in weights(net).items())
    assert not any(parameter.is_inference() for net in nets.values() for parameter in net.parameters())
    total, _ = case.task.loss(case.task.turns[0], nets, case.task.collate(case.samples("train", 2)))
    total.backward()  # what was kept from drawing must not be in the way


def test_its_networks_name_their_parts_from_the_input_to_the_head(case: Case) -> None:
    for network in case.networks().values():
        parts = parts_of(network)
        prefixes = [prefix for part in parts for prefix in part]
        assert len(parts) > 1
        assert all(parts)
        assert len(set(prefixes)) == len(prefixes)
        assert all(part_of(name, parts) is not None for name, _ in network.named_parameters())
        modules, parameters = dict(network.named_modules()), dict(network.named_parameters(remove_duplicate=False))
        assert [prefix for prefix in prefixes if prefix not in modules and prefix not in parameters] == []


def test_collate_gives_tensors_of_one_batch_size_counts_terms_and_keeps_ids_in_order(case: Case) -> None:
    samples = case.samples("train", 6)
    batch = case.task.collate(samples)
    assert batch.ids == tuple(sample["id"] for sample in samples)
    assert {len(tensor) for tensor in batch.tensors.values()} == {6}
    assert batch.count > 0
    assert batch.count == sum(case.task.collate([sample]).count for sample in samples)
    moved = batch.to(torch.device("cpu"))
    assert (moved.count, moved.ids) == (batch.count, batch.ids)


def test_collate_is_a_function_of_the_samples_alone(case: Case) -> None:
    samples = case.samples("train", 4)
    torch.manual_seed(1)
    first = case.task.collate(samples)
    torch.manual_seed(2)
    second = case.task.collate(samples)
    assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items())


def test_loss_is_finite_and_that_of_two_halves_adds_up(case: Case) -> None:
    """Where samples do not meet: batch norms are at rest, and each half has whole pairs of neighbours."""
    samples = case.samples("train", 6)
    nets = {name: network.eval() for name, network in case.networks().items()}
    for turn in case.task.turns:
        whole, scalars = case.task.loss(turn, nets, case.task.collate(samples))
        assert torch.isfinite(whole)
        assert whole.shape == torch.Size([])
        parts = [case.task.loss(turn, nets, case.task.collate(half)) for half in (samples[:2], samples[2:])]
        close(parts[0][0] + parts[1][0], whole)
        for name, value in scalars.items():
            close(parts[0][1][name] + parts[1][1][name], value)


def stirred(network: nn.Module) -> nn.Module:
    """The network with noise in the weights that begin as zero, behind which no gradient would pass."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return network


def test_every_parameter_of_the_network_whose_turn_it_is_gets_a_gradient(case: Case) -> None:
    nets = {name: stirred(network) for name, network in case.networks().items()}
    for turn in case.task.turns:
        total, _ = case.task.loss(turn, nets, case.task.collate(case.samples("train", 16)))
        total.backward()
        for name, parameter in nets[turn].named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


def test_recomputed_activations_change_neither_loss_nor_gradient(case: Case) -> None:
    """Batch norms are at rest: over few samples they make much of the last bit."""
    batch = case.task.collate(case.samples("train", 4))
    nets = {name: stirred(network).eval() for name, network in case.networks().items()}
    again = copy.deepcopy(nets)
    for network in again.values():
        arrange(network, case.run.world.model_copy(update={"recompute": True}))
    for turn in case.task.turns:
        losses = []
        for each in (nets, again):
            seed_all(0)
            losses.append(case.task.loss(turn, each, batch)[0])
            losses[-1].backward()
        close(*losses)
        for ours, theirs in zip(nets[turn].parameters(), again[turn].parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)


def test_it_overfits_a_few_samples(case: Case) -> None:
    task, nets = case.easier(), case.networks()
    batch = task.collate(case.samples("train", OVERFIT_SAMPLES))
    optimizers = {turn: torch.optim.AdamW(nets[turn].parameters(), lr=3e-3) for turn in task.turns}
    first: dict[str, float] = {}
    lowest = dict.fromkeys(task.turns, math.inf)
    for _ in range(OVERFIT_STEPS):
        for turn, optimizer in optimizers.items():
            total, _ = task.loss(turn, nets, batch)
            optimizer.zero_grad()
            (total / batch.count).backward()
            optimizer.step()
            lowest[turn] = min(lowest[turn], total.item() / batch.count)
            first.setdefault(turn, total.item() / batch.count)
        if all(lowest[turn] < OVERFIT_SHARE * first[turn] for turn in task.turns):
            return
    pytest.fail(f"losses fell from {first} to {lowest} only")


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_evaluate_adds_up_over_batches_of_any_size_and_padding(case: Case, batch_size: int) -> None:
    samples = case.samples("validation", 6)
    nets = {name: network.eval() for name, network in case.networks().items()}
    with torch.inference_mode():
        whole = case.task.evaluate(nets, case.task.collate(samples))
        sums: dict[str, Any] = {}
        for start in range(0, len(samples), batch_size):
            sums = add(sums, case.task.evaluate(nets, case.task.collate(samples[start : start + batch_size])))
    assert set(sums) == set(whole)
    for name, value in whole.items():
        assert value.dtype == torch.float64, name
        assert value.shape == torch.Size([]), name
        torch.testing.assert_close(sums[name], value, rtol=1e-5, atol=1e-4)
    metrics = case.task.metrics({name: float(value) for name, value in whole.items()})
    assert metrics
    assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values())


def test_its_configuration_declares_the_numbers_that_it_tells_while_training(case: Case) -> None:
    declared, task = metrics_of(type(case.run.task)), case.task
    assert task.turns == declared.turns
    nets = {name: network.eval() for name, network in case.networks().items()}
    batch = task.collate(case.samples("validation", 6))
    scalars = [each.name for each in declared.scalars]
    for turn in task.turns:
        with torch.no_grad():
            assert scalars == ["loss", *task.loss(turn, nets, batch)[1]]
    with torch.inference_mode():
        told = task.metrics({name: float(value) for name, value in task.evaluate(nets, batch).items()})
    assert [each.name for each in declared.validation if each.name in told] == list(told)
    assert {each.name for each in declared.validation if not each.asked} <= set(told)


def test_a_split_of_texts_has_a_sample_shorter_than_the_others(case: Case) -> None:
    """Else the tests above would not have seen padding."""
    lengths = {len(sample["tokens"]) for sample in case.samples("validation", 6) if "tokens" in sample}
    assert len(lengths) != 1


def test_a_checkpoint_of_its_networks_loads_back_equal(case: Case, tmp_path: Path) -> None:
    nets = case.networks()
    checkpointer = checkpoints(tmp_path, {"data": case.manifest.digest, "config": "c"})
    state = TrainState(1, 8, "00" * 32)
    checkpointer.save({name: Memory({"weights": weights(network)}) for name, network in nets.items()}, state, {})
    seed_all(12345)
    others = case.task.networks()
    engines = {name: Memory({}) for name in others}
    assert checkpointer.load(1, engines) == state
    for name, network in others.items():
        load_weights(network, engines[name].tensors["weights"])
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, nets[name].state_dict()[key]), key
