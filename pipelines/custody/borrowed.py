"""What a run takes from other runs: its first weights, the judge and the feature net of its evaluation."""

from collections.abc import Iterator
from pathlib import Path

from configs.custody import Link, judged, unchecked
from configs.errors import ConfigError
from configs.folder import RunFolder, digest, file_digest
from configs.origin import find_origin
from configs.schema import RunConfig
from configs.stages import asked_runs, chosen_step, step_folder
from pipelines.custody.records import Recorded, differing

FIRST = "first weights"


def first_weights_link(run: RunConfig, folder: RunFolder, complete: Recorded) -> Iterator[Link]:
    """The note of where training began, and whether the weights there still are what they were."""
    note, told = folder.first_weights, complete.says("first_weights")
    if run.task.model.init_from is None:
        return
    if told is None:
        if note.is_file():
            yield unchecked(FIRST, f"no sound record says what {note} was")
        return
    if problems := differing(folder.train, {note.name: told}, complete.path.name):
        yield judged(FIRST, told, problems)
        return
    origin = Recorded(note).content
    try:
        source = find_origin(run, folder)
    except ConfigError as error:
        yield unchecked(FIRST, str(error), origin["checkpoint"])
        return
    assert source, "the run names one"
    if origin["step"] is None:
        yield _judge_files(source, origin["checkpoint"])
    else:
        yield judge_checkpoint_of(FIRST, RunFolder(source), origin["step"], origin["checkpoint"])


def _judge_files(source: Path, told: str) -> Link:
    """A folder in another library's layout."""
    got = digest({file.name: file_digest(file) for file in sorted(source.glob("*.safetensors"))})
    return judged(FIRST, told, [f"{source}: its weights are {got[:12]}, they were {told[:12]}"] if got != told else [])


def asked_links(run: RunConfig, folder: RunFolder, metrics: Recorded) -> Iterator[Link]:
    """The runs that the evaluation asked."""
    if not metrics.sound:
        return
    there, told = asked_runs(run, folder), metrics.content.get("asked")
    if told is None:  # as evaluations were before they said whom they ask
        yield from (unchecked(name, "the metrics do not say which checkpoint they asked") for name in there)
        return
    for name, checkpoint in told.items():
        asked = there.get(name)
        if asked is None:
            yield unchecked(name, "the run that was asked is not where run.yaml says", checkpoint)
        else:
            yield judge_checkpoint_of(name, asked, chosen_step(asked.train), checkpoint)


def judge_checkpoint_of(name: str, source: RunFolder, step: int | None, told: str) -> Link:
    """Another run's checkpoint by its digest: altered when it is another now, or a file of it is."""
    if step is None or not step_folder(source.train, step).is_dir():
        return unchecked(name, f"{source.path} does not have that checkpoint any more", told)
    complete = Recorded(step_folder(source.train, step) / "complete.json")
    if not complete.sound:
        return judged(name, told, complete.problems)
    if complete.digest != told:
        return judged(name, told, [f"{complete.path.parent} is {complete.digest[:12]} now, it was {told[:12]}"])
    return judged(name, told, differing(complete.path.parent, complete.content["files"], complete.path.name))
