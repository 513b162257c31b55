"""The kinds that the fake cluster knows: in which groups and versions, in a namespace or not, with a status or not."""

KINDS: dict[tuple[str, str], str] = {
    ("", "namespaces"): "Namespace",
    ("", "nodes"): "Node",
    ("", "pods"): "Pod",
    ("", "services"): "Service",
    ("", "events"): "Event",
    ("", "secrets"): "Secret",
    ("", "configmaps"): "ConfigMap",
    ("", "persistentvolumeclaims"): "PersistentVolumeClaim",
    ("", "serviceaccounts"): "ServiceAccount",
    ("", "resourcequotas"): "ResourceQuota",
    ("", "limitranges"): "LimitRange",
    ("storage.k8s.io", "storageclasses"): "StorageClass",
    ("scheduling.k8s.io", "priorityclasses"): "PriorityClass",
    ("kubeflow.org", "pytorchjobs"): "PyTorchJob",
    ("trainer.kubeflow.org", "trainjobs"): "TrainJob",
    ("trainer.kubeflow.org", "clustertrainingruntimes"): "ClusterTrainingRuntime",
    ("kueue.x-k8s.io", "localqueues"): "LocalQueue",
    ("kueue.x-k8s.io", "clusterqueues"): "ClusterQueue",
    ("kueue.x-k8s.io", "resourceflavors"): "ResourceFlavor",
    ("kueue.x-k8s.io", "workloads"): "Workload",
    ("kueue.x-k8s.io", "workloadpriorityclasses"): "WorkloadPriorityClass",
    ("apiextensions.k8s.io", "customresourcedefinitions"): "CustomResourceDefinition",
    ("authorization.k8s.io", "selfsubjectaccessreviews"): "SelfSubjectAccessReview",
}
"""By group and plural"""
VERSIONS: dict[str, tuple[str, ...]] = {
    "trainer.kubeflow.org": ("v1alpha1",),
    "kueue.x-k8s.io": ("v1beta2", "v1beta1"),
}
"""Served of a group, the preferred one first, where it is not v1 alone"""
CUSTOM = {"kubeflow.org", "trainer.kubeflow.org", "kueue.x-k8s.io"}
"""Groups whose kinds are custom resources"""
CLUSTER_WIDE = {
    "namespaces",
    "nodes",
    "storageclasses",
    "priorityclasses",
    "clustertrainingruntimes",
    "clusterqueues",
    "resourceflavors",
    "workloadpriorityclasses",
    "cohorts",
    "customresourcedefinitions",
    "selfsubjectaccessreviews",
}
"""In no namespace"""
SHORT = {
    "namespaces": "ns",
    "nodes": "no",
    "pods": "po",
    "services": "svc",
    "events": "ev",
    "configmaps": "cm",
    "persistentvolumeclaims": "pvc",
    "serviceaccounts": "sa",
    "storageclasses": "sc",
    "priorityclasses": "pc",
}
"""What people type"""
WITH_STATUS = {"pods", "nodes", "namespaces", "pytorchjobs", "trainjobs", "workloads", "localqueues", "clusterqueues"}
"""Whose status is written by itself, at .../status, and nowhere else"""


def versions(group: str) -> tuple[str, ...]:
    return VERSIONS.get(group, ("v1",))
