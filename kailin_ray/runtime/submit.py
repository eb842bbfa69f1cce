"""A command as a job of a Ray cluster: checked here, run there, its output and exit code brought back.

The driver runs on the cluster under Ray's job supervisor, so a lost terminal or connection takes nothing with it. What
travels is this package and its configuration (about 1 MB), or nothing where ``job.ship`` is false; data never do: paths
are the cluster's.
"""

import asyncio
import logging
import os
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from kailin_ray.config import Job, SubmitConfig, conf_dir, without_secrets
from kailin_ray.errors import ConfigError
from kailin_ray.schema import Json
from kailin_ray.versions import PACKAGE

logger = logging.getLogger(__name__)

STOPPED = 75
BETWEEN = 5.0
"""Seconds after which a lost connection is tried again."""


@dataclass(frozen=True)
class SubmittedJob:
    """A command that is a job of a Ray cluster."""

    id: str
    command: str
    client: JobSubmissionClient

    @property
    def address(self) -> str:
        """Of the cluster's dashboard."""
        return str(self.client.get_address())

    def follow(self, out: TextIO) -> int:
        """Write the job's output to ``out`` until it ends, over lost connections; return its command's exit code."""
        return asyncio.run(follow(self.client, self.id, out))


def submit(config: SubmitConfig) -> SubmittedJob:
    """Submit a command as a job. Raises ``ConfigError`` for what may not be submitted or the cluster refuses."""
    _check_secrets(config)
    client = connect(config.job)
    if config.job.id in {job.submission_id for job in client.list_jobs()} - {None}:
        raise ConfigError(f"job.id: {config.job.id} is another job's on this cluster; choose one, or leave it to Ray")
    with tempfile.TemporaryDirectory() as scratch:
        # The driver drains on SIGTERM; Ray's own patience is three seconds. What it prints goes to a file.
        patience = {"RAY_JOB_STOP_WAIT_TIME_S": str(config.job.stop_seconds), "PYTHONUNBUFFERED": "1"}
        environment: Json = {"env_vars": patience | config.job.env}
        if config.job.ship:
            environment["working_dir"] = str(pack_code(Path(scratch) / "kailin_ray"))
        try:
            identity = client.submit_job(
                entrypoint=shlex.join([config.job.python, "-m", "kailin_ray", config.command, *config.keys]),
                submission_id=config.job.id,
                runtime_env=environment,
                entrypoint_num_cpus=config.job.num_cpus,
                entrypoint_memory=int(config.job.memory_gib * 2**30) or None,
                entrypoint_resources=config.job.resources or None,
            )
        except RuntimeError as error:
            raise ConfigError(f"job: the cluster refuses it: {_one_line(error)}") from error
    return SubmittedJob(identity, config.command, client)


def format_submitted(job: SubmittedJob) -> str:
    """What a person can do with a job."""
    where = f"--address {job.address}"
    return "\n".join(
        (
            f"job {job.id}, of {job.command}",
            f"  watch it   ray job logs {where} --follow {job.id}",
            f"  stop it    ray job stop {where} {job.id}      it ends in good order, and the same command goes on",
        )
    )


def _check_secrets(config: SubmitConfig) -> None:
    """Raise ``ConfigError`` for what everybody who sees the cluster's jobs would read."""
    for text in config.keys:
        key, _, value = text.partition("=")
        if without_secrets(value, key) != value:
            raise ConfigError(f"{key}: a secret in a job's command is seen by all who see the cluster's jobs")
    if without_secrets(config.job.env) != config.job.env:
        raise ConfigError("job.env: a secret there is seen by all who see the cluster's jobs; set it on the machines")


def connect(job: Job) -> JobSubmissionClient:
    """A client of the cluster's dashboard. Raises ``ConfigError`` where none answers or the token is not its own."""
    address = job.address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"
    shown = without_secrets(address)
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"job.address: {shown}: expected the dashboard's address, as http://head:8265")
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ConfigError(
            f"job.address: {shown} asks for its token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH (else ~/.ray/auth_token is read) to what its head was started with"
        ) from error
    except (ConnectionError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"job.address: no Ray dashboard answers at {shown}; start a cluster with `ray start --head`, or forward "
            f"its port ({_one_line(error)})"
        ) from error


def pack_code(folder: Path) -> Path:
    """Copy this package and its configuration to ``folder``, as a checkout has them, and nothing else."""
    ignored = shutil.ignore_patterns("__pycache__", "conf")
    shutil.copytree(PACKAGE, folder / "kailin_ray", ignore=ignored)
    shutil.copytree(conf_dir(), folder / "conf", ignore=ignored)
    return folder


async def follow(client: JobSubmissionClient, identity: str, out: TextIO) -> int:
    """See ``SubmittedJob.follow``."""
    written = 0
    while True:
        said = 0
        try:
            async for text in client.tail_job_logs(identity):  # each time from its first line on
                out.write(text[max(0, written - said) :])
                out.flush()
                said += len(text)
                written = max(written, said)
            if (code := exit_code(client.get_job_info(identity))) is not None:
                return code
        except (OSError, RuntimeError, aiohttp.ClientError) as error:
            logger.warning("the connection was lost, the job goes on (%s)", _one_line(error))
        await asyncio.sleep(BETWEEN)


def exit_code(info: JobDetails) -> int | None:
    """The exit code of a job's command; None while it runs, 75 of one that was stopped, 1 of one that never began."""
    if not info.status.is_terminal():
        return None
    if info.status == JobStatus.STOPPED:
        return STOPPED
    if info.driver_exit_code is None:
        logger.error("%s", info.message)
        return 1
    return int(info.driver_exit_code)


def _one_line(error: Exception) -> str:
    return str(without_secrets(" ".join(str(error).split())[:300])) or type(error).__name__
