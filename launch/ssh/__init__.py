"""Plain hosts over ssh: one torchrun agent on each, which ends with the connection that started it."""

from .config import SshConfig as SshConfig
