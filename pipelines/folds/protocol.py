"""The protocol of a cross-validation: what the folds' protocols agree on, and how samples were divided."""

from collections.abc import Mapping
from typing import Any

from configs.dataset import TrainedTokenizer
from configs.errors import DamageError
from configs.folder import RunFolder, digest
from configs.folds import repeat_folder, repeats_of
from configs.metrics import unlike
from configs.schema import RunConfig
from configs.stages import read_record

Protocol = Mapping[str, Any]
OWN = ("data", "reference_data", "baseline_data")
"""Parts of a protocol that name the samples of the fold itself; data of another run, as a judge's are, must agree"""


def agreed(protocols: Mapping[str, Protocol]) -> dict[str, Any]:
    """The parts that all folds' protocols share; what names a fold's own data is left out.

    Raises DamageError naming the first fold that was scored otherwise, and in what.
    """
    (first, ours), *others = ((name, _without_data(protocol)) for name, protocol in protocols.items())
    for name, theirs in others:
        if parts := unlike(ours, theirs):
            raise DamageError(
                f"folds {first} and {name} were evaluated under unlike protocols ({'; '.join(parts)}), so that they "
                "have no common mean; ask for what every fold can be evaluated with (no more samples than the smallest "
                "one holds, where they were counted), or remove the evaluation of one, and give the command again"
            )
    return ours


def _without_data(protocol: Protocol) -> dict[str, Any]:
    return {part: value for part, value in protocol.items() if part not in OWN}


def describe_folds(run: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """How samples were divided into folds, and what is made of the folds' values."""
    splits = run.data.splits
    assert splits.folds, "only a run with folds is collected"
    ratio = f"1/{splits.folds.count - 1}"
    trained = isinstance(getattr(run.data, "tokenizer", None), TrainedTokenizer)
    return {
        "split": "held-out folds",
        "data": assignment_digest(run, folder),
        "folds": splits.folds.count,
        "repeats": splits.folds.repeats,
        "stratified": splits.stratify,
        "groups": ", ".join(_groups(run)),
        **({"tokenizer_trained_on": "the texts of all folds, held-out ones among them"} if trained else {}),
        "value": "mean over folds",
        "stderr": "corrected resampled, over folds (Nadeau and Bengio, 2003)",
        "interval": f"95 %, corrected resampled t, held-out to training samples {ratio} (Nadeau and Bengio, 2003)",
    }


def _groups(run: RunConfig) -> list[str]:
    """Which column keeps samples together, for each source."""
    source = run.data.source
    sources = [part.source for part in source.parts] if source.kind == "mixture" else [source]
    return ["the package's" if each.kind == "packaged" else each.group_field or "none" for each in sources]


def assignment_digest(run: RunConfig, folder: RunFolder) -> str:
    """sha256 over the shards of every fold of every repeat: equal samples in equal folds have equal digests."""
    return digest([_divided(repeat_folder(run, folder, repeat)) for repeat in repeats_of(run)])


def _divided(folder: RunFolder) -> dict[str, Any]:
    splits = read_record(folder.manifest)["splits"]
    return {
        name: [[shard["blake3"], shard["samples"]] for shard in split["shards"]]
        for name, split in splits.items()
        if name.startswith("fold-")
    }
