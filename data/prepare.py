"""Command: source -> tokenizer, shards, manifest, card. Run as `python -m data.prepare RUN [PHASE [PART/PARTS]]`."""

import sys
from dataclasses import asdict
from pathlib import Path

from configs.dataset import ImageData, TextData
from configs.errors import DamageError, DataError, UserError
from configs.folder import RunFolder, locked, write_json
from configs.process import stage_main
from configs.schema import RunConfig
from configs.stages import data_key, prepared, read_record
from data.manifest import ASSIGNMENTS, MANIFEST, read_manifest
from data.phases.encoding import encode_piece, make_tokenizer
from data.phases.finishing import finish_dataset
from data.phases.overlap import find_overlap, hash_tests, merge_tests
from data.phases.plan import make_plan, plan_of
from data.phases.reading import CORRUPT, Drops, facts_of, placement_examples, read_piece
from data.phases.units import Phase, Share, Workers
from data.phases.work import Work
from data.phases.writing import forget_changed, write_shard
from data.progress import say
from data.remote import publish
from data.shards import file_blake3
from data.splits import trains
from data.view.decide import Decision, decide


def prepare(run: RunConfig, folder: RunFolder) -> None:
    """Fill `folder.data`; a finished one is left alone, an interrupted one is continued.

    Raises DataError when the source has no documents, too few tokens for one block, or none for a split.
    """
    with locked(folder.data):
        work = Work(run, folder)
        if not _is_made(run, folder):
            with Workers(work, run.world.prepare_workers) as hands:
                for phase in PHASES.values():
                    phase(work, hands)
        manifest = read_manifest(folder.manifest)  # the tokenizer may have been changed since
        if run.data.store:
            publish(run.data.store, folder, manifest)
        work.remove()
        say("prepare", f"complete: {prepared(run, folder)}")


def _is_made(run: RunConfig, folder: RunFolder) -> bool:
    """Whether the shards are written; they may still have to go to the store."""
    if run.data.store is None:
        return prepared(run, folder) is not None
    return folder.manifest.exists() and read_record(folder.manifest).get("config") == data_key(run)


def prepare_phase(run: RunConfig, folder: RunFolder, phase: str, share: Share) -> None:
    """One phase, or one pod's share of its units: pods share the folder, and no unit."""
    if not prepared(run, folder):
        work = Work(run, folder)
        hands = Workers(work, run.world.prepare_workers, share)
        with hands, locked(work.locks / f"{phase}-{share.part}-of-{share.parts}"):
            PHASES[phase](work, hands)


def main() -> int:
    """The command line: a run folder, and for a pod a phase and its part of it."""
    if not sys.argv[2:]:
        return stage_main("prepare", prepare)
    return stage_main("prepare", lambda run, folder: prepare_phase(run, folder, *asked(sys.argv[2:])))


def asked(words: list[str]) -> tuple[str, Share]:
    """The phase and part that the command line names. Raises UserError."""
    try:
        part, parts = map(int, (words[1] if len(words) > 1 else "1/1").split("/"))
        if words[0] in PHASES and 1 <= part <= parts and (parts == 1 or words[0] in SHARED):
            return words[0], Share(part - 1, parts)
    except ValueError:
        pass
    raise UserError(
        f"got {' '.join(words)!r}; expected a phase ({', '.join(PHASES)}), "
        f"and for {', '.join(SHARED)} a part such as 1/4"
    )


# --- phases, in order; each finds done what an interrupted one left ---


def plan_pieces(work: Work, hands: Workers) -> None:
    """List the sources' pieces: what all other phases share."""
    went_on = work.begin()
    for source in work.sources:
        say("prepare", f"{source.description}: {source.files} files, {source.bytes / 1e6:.1f} MB")
    if went_on:
        say("prepare", "going on after an interruption")


def read_pieces(work: Work, hands: Workers) -> None:
    hands.run(Phase("read", read_piece, _pieces, "pieces read"))


def decide_all(work: Work, hands: Workers) -> None:
    """Duplicates, splits and folds over all pieces at once."""
    if not work.decision.exists():
        _require_content(work)
        _check_previous(work)
        say("prepare", "looking for duplicates and assigning splits")
        hands.alone(_decide)


def _decide(work: Work) -> None:
    text = work.run.data.text if isinstance(work.run.data, TextData) else None
    decision = decide(
        facts_of(work),
        work.placements,
        work.run.data.splits,
        text.near_duplicates if text else None,
        deduplicate=bool(text and text.deduplicate),
        work=work.path,
        assignments=work.folder.data / ASSIGNMENTS,
        name=_names(work),
        sample="document" if text else "image",
    )
    classes = _classes(work, decision)
    examples = placement_examples(work, set(decision.dropped))
    records = (work.record("read", number) for number in range(len(work.pieces)))
    tags = sorted({name for record in records for name in record["tags"]})
    write_json(work.decision, asdict(decision) | {"classes": classes, "tags": tags, "examples": examples})


def drop_overlap(work: Work, hands: Workers) -> None:
    """Training documents that share n-grams with the test split."""
    if not isinstance(work.run.data, TextData) or work.run.data.text.decontaminate is None:
        return
    hands.run(Phase("tests", hash_tests, _pieces, "pieces of tests hashed"))
    if not (work.path / "tests.npy").exists():
        hands.alone(merge_tests)
    hands.run(Phase("overlap", find_overlap, _pieces, "pieces compared with the tests"))


def train_tokenizer(work: Work, hands: Workers) -> None:
    if work.run.data.kind == "text":
        hands.alone(make_tokenizer)


def encode_pieces(work: Work, hands: Workers) -> None:
    if work.run.data.kind == "text":
        hands.run(Phase("encode", encode_piece, _pieces, "pieces encoded"))


def plan_shards(work: Work, hands: Workers) -> None:
    """Which samples stand in which shard."""
    if not work.plan.exists():
        _require_a_block(work)
        make_plan(work, list(read_record(work.decision)["splits"]))


def write_shards(work: Work, hands: Workers) -> None:
    forget_changed(work, hands.share.of(_shards(work)))
    hands.run(Phase("write", write_shard, _shards, "shards written"))


def finish(work: Work, hands: Workers) -> None:
    """Labels, statistics, card, and the manifest, last."""
    finish_dataset(work)


PHASES = {
    "plan": plan_pieces,
    "read": read_pieces,
    "decide": decide_all,
    "overlap": drop_overlap,
    "tokenizer": train_tokenizer,
    "encode": encode_pieces,
    "cut": plan_shards,
    "write": write_shards,
    "finish": finish,
}
SHARED = ("read", "encode", "write")
"""Phases whose units several pods may divide"""


def _pieces(work: Work) -> int:
    return len(work.pieces)


def _shards(work: Work) -> int:
    return len(plan_of(work.plan).shards)


def _require_content(work: Work) -> None:
    """A source of which nothing is left has nothing to divide; too many corrupt images are no accident."""
    drops, documents = Drops(), 0
    for number in range(len(work.pieces)):
        record = work.record("read", number)
        documents += record["documents"]
        drops.merge(record)
    if documents == drops.counts.total():
        what = "document with text in it" if work.run.data.kind == "text" else "image that can be used"
        counts = ", ".join(f"{count} {reason}" for reason, count in sorted(drops.counts.items()))
        raise DataError(f"{_names(work)}: no {what} (dropped: {counts or 'none'}); see data.source")
    corrupt = sum(count for reason, count in drops.counts.items() if reason.startswith(CORRUPT))
    if isinstance(work.run.data, ImageData) and corrupt > (limit := work.run.data.images.max_corrupt):
        first = [f"{e['origin']} ({why})" for why, all_ in drops.examples.items() if CORRUPT in why for e in all_]
        more = f" and {corrupt - 5} more" if corrupt > 5 else ""
        raise DataError(
            f"{_names(work)}: {corrupt} corrupt images, data.images.max_corrupt={limit} may be left out: "
            f"{', '.join(first[:5])}{more}; mend or remove them, or raise the limit"
        )


def _check_previous(work: Work) -> None:
    """An earlier data set whose assignments are what it wrote, and of the same kind. Raises DataError, DamageError."""
    if (previous := work.run.data.splits.previous) is None:
        return
    earlier = read_manifest(Path(previous) / MANIFEST)
    path = Path(previous) / ASSIGNMENTS
    if earlier.kind != work.run.data.kind:
        raise DataError(f"data.splits.previous={previous} holds {earlier.kind}, this is {work.run.data.kind}")
    if not path.is_file() or file_blake3(path) != earlier.assignments:
        raise DamageError(f"{path} is not what was written: its blake3 differs from the manifest's; restore the file")


def _classes(work: Work, decision: Decision) -> list[str]:
    """The names of the classes, when every sample has one."""
    splits = decision.splits.values()
    labelled, samples = sum(sum(s.classes.values()) for s in splits), sum(s.documents for s in splits)
    if labelled == samples:
        return sorted({name for split in splits for name in split.classes})
    data = work.run.data
    if labelled and (isinstance(data, ImageData) or data.packing == "document"):
        raise DataError(
            f"{_names(work)}: {samples - labelled} of {samples} samples have no label; "
            "set label_field in every source of the mixture, or in none"
        )
    return []


def _names(work: Work) -> str:
    return " and ".join(source.description for source in work.sources)


def _require_a_block(work: Work) -> None:
    """A train split that does not fill one block trains nothing."""
    data = work.run.data
    if not isinstance(data, TextData):
        return
    records = [work.record("encode", number)["splits"] for number in range(len(work.pieces))]
    tokens = sum(r["tokens"] for each in records for name, r in each.items() if trains(name))
    if not tokens or (tokens < data.block_tokens and data.packing != "document"):
        raise DataError(
            f"{_names(work)}: the train split has {tokens} tokens, fewer than one block of data.block_tokens="
            f"{data.block_tokens}; add text or choose a smaller block"
        )


if __name__ == "__main__":
    sys.exit(main())
