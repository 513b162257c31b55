"""The links of the data, which a child process judges: this room does not know how data is read."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from configs.custody import Link, judged, unchecked
from configs.folder import RunFolder
from configs.stages import steps_in
from pipelines.custody.code import DATA_ROOMS, judge_versions
from pipelines.custody.records import Recorded


def data_links(folder: RunFolder, present: Mapping[str, Any], *, sources: bool) -> list[Link]:
    """From the raw bytes to the manifest, and the code that made it; `present` is the record of the code here."""
    if folder.manifest.is_file():
        return [*ask_data(folder, sources=sources), judge_data_code(folder, present)]
    later = any(folder.data.glob("*.tar")) or steps_in(folder.train) or folder.metrics.exists()
    missing = judged("manifest", "", [f"{folder.manifest} is missing"])
    return [missing if later else unchecked("manifest", "the data is not prepared yet")]


def ask_data(folder: RunFolder, *, sources: bool) -> list[Link]:
    """What `python -m data.chain` says."""
    command = [sys.executable, "-m", "data.chain", str(folder.path), *([] if sources else ["--no-sources"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stderr.strip() or f"the check ended with code {done.returncode}").splitlines()[-1]
        return [unchecked("data", told)]
    return [Link(**each) for each in json.loads(done.stdout)]


def judge_data_code(folder: RunFolder, present: Mapping[str, Any]) -> Link:
    """The code that made the data. A fold reads the data of its repeat, beside which the record is too."""
    home = RunFolder(folder.data.resolve().parent)
    note, manifest = Recorded(home.data_code), Recorded(folder.manifest, blank=True)
    if not note.there:
        return unchecked("data code", f"there is no {home.data_code}, which says which code made the data")
    if not note.sound:
        return judged("data code", note.digest, note.problems)
    if manifest.sound and note.content["data"] != manifest.digest:
        told = f"{note.path} is of data {note.content['data'][:12]}, the manifest is {manifest.digest[:12]}"
        return judged("data code", note.content["code"], [told])
    return judge_versions("data code", home, [note.content["code"]], present, rooms=DATA_ROOMS)
