"""What only the rank itself can say when it is asked: the collectives that torch has begun and completed."""

import json
import sys
from typing import Any

RECENT = 64


def answer() -> bytes:
    """Return torch's own record of collectives (its flight recorder), as JSON; {} where it has none."""
    distributed = sys.modules.get("torch.distributed")
    try:
        if distributed is None or not distributed.is_initialized():
            return b"{}"
        return json.dumps(_collectives(distributed.get_backend())).encode()
    except Exception as error:
        # Whatever torch's version makes of it: the other evidence is there without it.
        return json.dumps({"fault": f"{type(error).__name__}: {error}"}).encode()


def _collectives(backend: str) -> dict[str, Any]:
    c10d = sys.modules["torch._C._distributed_c10d"]
    dump = getattr(c10d, "_dump_nccl_trace_json", None) if backend == "nccl" else None
    dump = dump or c10d._dump_fr_trace_json
    found = json.loads(dump(includeCollectives=True, onlyActive=False))
    entries = [
        {
            "group": entry["pg_id"],
            "number": entry["collective_seq_id"],
            "name": entry["profiling_name"],
            "sizes": entry.get("input_sizes", []),
        }
        for entry in found.get("entries", [])
        if not entry.get("is_p2p")
    ]
    status = {
        group: {"begun": int(one["last_enqueued_collective"]), "done": int(one["last_completed_collective"])}
        for group, one in found.get("pg_status", {}).items()
    }
    return {"entries": entries[-RECENT:], "status": status}
