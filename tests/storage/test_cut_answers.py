"""An answer of the store that breaks off is asked for again."""

from __future__ import annotations

from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from tests.servers.s3_proxy import Exchange, s3_proxy
from tests.servers.seaweedfs import S3Server

CONTENT = bytes(range(256)) * 400


def test_a_body_that_is_cut_is_read_again(bucket: str, s3: S3Server):
    direct = ObjectStore(bucket)
    direct.write("object", CONTENT)
    cut: list[str] = []

    def serve(exchange: Exchange) -> None:
        breaks = exchange.method == "GET" and len(cut) % 3 < 2
        if exchange.method == "GET":
            cut.append(exchange.path)
        exchange.answer(exchange.forward(), share=0.5 if breaks else 1)

    with s3_proxy(s3, serve) as url:
        store = ObjectStore(bucket, StorageSettings(endpoint_url=url))
        assert store.read_with_etag("object") == direct.read_with_etag("object")
        assert store.read("object") == CONTENT
    assert len(cut) == 6, "each read was cut twice"
