"""The store on a Redis keeps the promise of every store, and what it says of itself besides."""

from __future__ import annotations

import pytest
from contract import StoreContract
from servers import Server

from loginonce.stores.redis import RedisStore

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    server = Server(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def url(server: Server) -> str:
    server.client().flushall()
    return server.url


class TestRedisStore(StoreContract):
    lag = 0.25

    @pytest.fixture
    def store(self, url: str) -> RedisStore:
        return RedisStore(url)

    @pytest.fixture
    def twin(self, store: RedisStore, server: Server) -> RedisStore:
        return RedisStore(server.url)
