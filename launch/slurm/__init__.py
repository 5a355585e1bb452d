"""Slurm: a batch script for each link of the chain, submitted with sbatch."""

from .config import SlurmConfig as SlurmConfig
from .launcher import SlurmLauncher as SlurmLauncher
