"""Kubernetes: an indexed Job, or a PyTorchJob of Kubeflow's training operator, for each run."""

from .config import KubernetesConfig as KubernetesConfig
from .launcher import KubernetesLauncher as KubernetesLauncher
