"""What a rank sees when another one is gone: an error of the connection, which is not its own fault."""

SIGNS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
"""In the words of gloo and NCCL, which raise RuntimeError and its subclasses of torch.distributed."""
KINDS = {"DistBackendError", "DistNetworkError", "DistStoreError"}


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says no more than that another rank, or the way to it, is gone."""
    if type(error).__name__ in KINDS:
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def told(error: BaseException) -> str:
    """Return an error in words, for records and events."""
    if is_lost_peer(error):
        return "another rank is gone"
    return f"{type(error).__name__}: {error}"
