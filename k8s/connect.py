"""The way to a cluster: a kubeconfig, or the service account of the pod that this runs in."""

import os
from pathlib import Path
from typing import Any

from configs.errors import UserError

LOGGED_OUT = "the credentials of {who} cannot be used: {why}; log in to the cluster again"


def connect(context: str | None = None) -> Any:
    """A client of the official library. Raises UserError where no cluster is named or the way to it cannot be read.

    A kubeconfig that exists, in KUBECONFIG or ~/.kube/config, wins; inside a pod without one the pod's service account
    is used, and `context` has no meaning.
    """
    from kubernetes import client, config

    paths = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    there = [path for path in paths.split(os.pathsep) if Path(path).is_file()]
    settings = client.Configuration()
    if not there and "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config(client_configuration=settings)
    elif not there:
        raise UserError(
            f"no kubeconfig: {paths} does not exist, and this is not a pod of a cluster; set KUBECONFIG to the file "
            "that your cluster's login wrote"
        )
    else:
        _read(config, settings, os.pathsep.join(there), context)
    settings.retries = False  # type: ignore[assignment]  # ours alone, which know what may be repeated
    settings.connection_pool_maxsize = 64
    return client.ApiClient(settings)


def _read(config: Any, settings: Any, paths: str, context: str | None) -> None:
    import yaml
    from kubernetes.config.config_exception import ConfigException

    try:
        config.load_kube_config(config_file=paths, context=context, client_configuration=settings)
    except ConfigException as error:
        known = _contexts(config, paths)
        if context and context not in known:
            raise UserError(
                f"cluster.context={context} is not in {paths}; its contexts are {', '.join(known) or 'none'}"
            ) from None
        raise UserError(LOGGED_OUT.format(who=context or paths, why=error)) from None
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{paths} cannot be read as a kubeconfig: {' '.join(str(error).split())}") from None


def _contexts(config: Any, paths: str) -> list[str]:
    try:
        return sorted(each["name"] for each in config.list_kube_config_contexts(config_file=paths)[0])
    except Exception:  # whatever is wrong with the file is being told already
        return []
