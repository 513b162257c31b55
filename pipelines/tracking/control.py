"""What is asked of a training on its page at W&B: a tag is a request, and is taken back when it is passed on."""

import contextlib
from collections.abc import Callable, Sequence

from configs.errors import OutageError, UserError
from configs.folder import RunFolder
from pipelines.tracking.server import Place, set_tags

TAGS = {"trainworks-stop": "stop", "trainworks-checkpoint": "checkpoint"}
"""Tag -> request"""
WORDS = {
    "stop": "it saves and ends; the same command, or `trainworks resume` on a cluster, goes on",
    "checkpoint": "it saves after the step that it is in",
}


class Control:
    """Passes requests on to the training, through its folder."""

    def __init__(self, place: Place, folder: RunFolder, say: Callable[[str], None]) -> None:
        self.place, self.folder, self.say = place, folder, say

    def obey(self, tags: Sequence[str]) -> None:
        """Pass on what these tags of the run ask for, and take those tags away."""
        asked = [tag for tag in tags if tag in TAGS]
        for tag in asked:
            path = self.folder.request(TAGS[tag])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self.say(f"W&B: the tag {tag} asks for a {TAGS[tag]}; {WORDS[TAGS[tag]]}")
        if asked:
            with contextlib.suppress(UserError, OutageError):  # asked again the next time, which does no harm
                set_tags(self.place, tuple(tag for tag in tags if tag not in asked))
