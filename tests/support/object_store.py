"""A real S3 server (moto) in a process of its own, and what the environment says about it."""

import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kailin_ray.io.storage import parse_folder

KEYS = {
    "AWS_ACCESS_KEY_ID": "made-up-key",
    "AWS_SECRET_ACCESS_KEY": "made-up-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}
Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def serve(connection: Any, knows_conditions: bool) -> None:
    """Serve until the process is ended; send the port first."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server(
        "127.0.0.1", 0, application if knows_conditions else without_conditions(application), threaded=True
    )
    connection.send(server.server_port)
    server.serve_forever()


def without_conditions(application: Application) -> Application:
    """A store that ignores conditional writes, as some do."""

    def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        for name in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"):
            environ.pop(name, None)
        return application(environ, start_response)

    return call


@contextmanager
def object_store(knows_conditions: bool = True) -> Iterator[Any]:
    """The server's process, with an empty bucket; the environment says where it is, as for a user."""
    mine, other = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(other, knows_conditions))
    server.start()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in (KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{mine.recv()}"}).items():
            monkeypatch.setenv(name, value)
        clear_instances()
        parse_folder("s3://bucket/x").fs.call_s3("create_bucket", Bucket="bucket")
        yield server
    clear_instances()
    server.kill()
    server.join()


def clear_instances() -> None:
    """Forget the clients, which keep the address that they were made with."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
