"""What goes wrong with `datasets` and the Hugging Face hub, in words that say what to do."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from configs.dataset import HuggingFaceSource
from configs.errors import DataError


@contextmanager
def explained(config: HuggingFaceSource) -> Iterator[None]:
    """Turn what the libraries raise into a DataError; a full disk is left as it is."""
    import httpx2
    from datasets.exceptions import DatasetsError

    try:
        yield
    except DataError:
        raise
    except (DatasetsError, httpx2.HTTPError, OSError, RuntimeError, ValueError, KeyError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise  # not the data's fault
        reason = _reason(error, config)
    else:
        return
    raise DataError(f"{config.path}: {reason}")  # outside the handler: what the hub answered can hold signed URLs


def _reason(error: Exception, config: HuggingFaceSource) -> str:
    import httpx2
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    text = str(error)
    if "scripts are no longer supported" in text:
        return "needs a loading script, and scripts are never run; convert it to parquet or JSON lines first"
    if isinstance(error, RevisionNotFoundError):
        return f"has no revision {config.revision!r} on the hub; set data.source.revision"
    if isinstance(error, GatedRepoError):
        return "is gated; accept its terms on the hub and give a token in the environment variable HF_TOKEN"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, RepositoryNotFoundError | DatasetNotFoundError) or status in (401, 403):
        return "is not on the hub, or is private; see data.source.path, or give a token in HF_TOKEN"
    if isinstance(error, httpx2.TransportError | ConnectionError):
        return f"the Hugging Face hub cannot be reached ({_said(text)}); see the network, or give a local folder"
    if status:
        return f"the Hugging Face hub answered {status}; run the same command again later"
    cause = error.__cause__ or error
    return f"not readable by `datasets`: {type(cause).__name__}: {_said(str(cause))}"


def _said(text: str) -> str:
    """The first line of a library's message, without the queries of URLs: they can be signed."""
    return re.sub(r"\?\S*", "?...", text.strip().partition("\n")[0])[:300] if "://" in text else text.strip()[:300]
