"""What `cstor-replica` is told, and what is refused."""

from __future__ import annotations

import pytest

from cstor_core.errors import InputError
from cstor_core.settings import load_settings
from replica.settings import ReplicaSettings


@pytest.mark.parametrize("port", ["listen", "metrics"])
def test_nothing_is_open_to_a_network_without_a_word(
    port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"pool": "pool", port: "0.0.0.0:7778"}
    with pytest.raises(InputError, match=f"{port} would be open .*--insecure-network"):
        load_settings(ReplicaSettings, flags, None)
    monkeypatch.setenv("CSTOR_REPLICA_INSECURE_NETWORK", "true")
    assert load_settings(ReplicaSettings, flags, None).insecure_network
