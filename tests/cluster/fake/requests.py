"""What a call to the Kubernetes API asks for: its path and its verb."""

import re
from typing import NamedTuple
from urllib.parse import unquote

from tests.cluster.fake.objects import StatusError

_PATH = re.compile(
    r"^/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/(?!(?:status|finalize)$)))?"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?$"
)


class Asked(NamedTuple):
    """What a path names."""

    group: str
    version: str
    namespace: str
    resource: str
    name: str
    subresource: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version


class Request(NamedTuple):
    """One call, as RBAC sees it."""

    user: str
    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    subresource: str
    time: float = 0.0
    """Seconds since 1970"""


class Rule(NamedTuple):
    """What somebody may do; `*` stands for all. Below a kind's objects: `pods/log`."""

    verb: str = "*"
    group: str = "*"
    resource: str = "*"
    namespace: str = "*"

    def covers(self, request: Request) -> bool:
        resource = "/".join(part for part in (request.resource, request.subresource) if part)
        asked = (request.verb, request.group, resource, request.namespace)
        return all(allowed in ("*", wanted) for allowed, wanted in zip(self, asked, strict=True))


def parse_path(path: str) -> Asked:
    found = _PATH.match(path)
    if not found:
        raise StatusError(404, "NotFound", "the server could not find the requested resource")
    keys = ("group", "version", "namespace", "resource", "name", "sub")
    return Asked(*(unquote(found[key] or "") for key in keys))


def verb_of(method: str, asked: Asked, query: dict[str, str]) -> str:
    """As RBAC names it."""
    if not asked.name:
        watches = query.get("watch") in ("true", "True", "1")
        verbs = {"GET": "watch" if watches else "list", "POST": "create", "DELETE": "deletecollection"}
    else:
        verbs = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    if method not in verbs:
        raise StatusError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    return verbs[method]


def forbidden(request: Request) -> StatusError:
    """What the API answers to somebody who may not."""
    resource = "/".join(part for part in (request.resource, request.subresource) if part)
    whole = f"{request.resource}.{request.group}" if request.group else request.resource
    what = f'{whole} "{request.name}"' if request.name else whole
    where = f'in the namespace "{request.namespace}"' if request.namespace else "at the cluster scope"
    return StatusError(
        403,
        "Forbidden",
        f'{what} is forbidden: User "{request.user}" cannot {request.verb} resource "{resource}" '
        f'in API group "{request.group}" {where}',
    )
